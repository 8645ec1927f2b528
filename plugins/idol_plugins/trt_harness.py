"""A plugin library as TensorRT uses it, without TensorRT: `csrc/trt_harness.h` through ctypes.

Nothing is judged here: `idol_plugins.conformance` does that.
"""

import ctypes
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from idol_plugins.errors import PluginError
from idol_plugins.libraries import find_library
from idol_plugins.trt_types import Field, FieldType, Tensor

__all__ = ["Plugin", "PluginLibrary"]

_MOST_DIMS, _MOST_FIELDS = 8, 64
_KIND, _NAME, _VERSION, _NAMESPACE, _CACHE_ID, _METADATA = range(6)


class _Tensor(ctypes.Structure):
    _fields_ = (
        ("type", ctypes.c_int32),
        ("format", ctypes.c_int32),
        ("rank", ctypes.c_int32),
        ("sizes", ctypes.c_int64 * _MOST_DIMS),
    )


class _Field(ctypes.Structure):
    _fields_ = (
        ("name", ctypes.c_char_p),
        ("data", ctypes.c_void_p),
        ("type", ctypes.c_int32),
        ("length", ctypes.c_int32),
    )


def _pack(tensors: Sequence[Tensor]) -> Any:
    sizes = ctypes.c_int64 * _MOST_DIMS
    packed = [
        _Tensor(int(tensor.type), tensor.format, len(tensor.sizes), sizes(*tensor.sizes))
        for tensor in tensors
    ]
    return (_Tensor * len(packed))(*packed)


def _unpack(fields: Any, count: int) -> list[Field]:
    """Copies: what a library gave away may go with it."""
    found = []
    for field in fields[:count]:
        dtype = {FieldType.INT32: np.int32, FieldType.INT64: np.int64}.get(field.type, np.int8)
        data = ctypes.string_at(field.data, field.length * np.dtype(dtype).itemsize) if field.data else None
        values = None if data is None else np.frombuffer(data, dtype)
        found.append(Field(field.name.decode(), field.type, values, field.length))
    return found


def _text(text: bytes | None) -> str | None:
    return None if text is None else text.decode()


def _load(harness: Path) -> ctypes.CDLL:
    """The harness, its functions declared.

    Raises:
        PluginError: it cannot be loaded.
    """
    try:
        library = ctypes.CDLL(str(harness))
        pointer, text, number = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int32
        for name, result, arguments in (
            ("open", pointer, (text, number, text, number)),
            ("close", None, (pointer,)),
            ("said", text, (pointer,)),
            ("on_host", number, (pointer,)),
            ("creators", number, (pointer,)),
            ("creator_text", text, (pointer, number, number)),
            ("creator_fields", number, (pointer, number, pointer, number)),
            ("create", pointer, (pointer, number, pointer, number, number)),
            ("destroy", None, (pointer,)),
            ("clone", pointer, (pointer,)),
            ("attach", pointer, (pointer,)),
            ("plugin_text", text, (pointer, number)),
            ("capability", text, (pointer, number)),
            ("outputs", number, (pointer,)),
            ("tactics", number, (pointer,)),
            ("aliased", number, (pointer, number)),
            ("supports", number, (pointer, number, pointer, number, number)),
            ("output_types", number, (pointer, pointer, number, pointer, number)),
            ("output_shapes", number, (pointer, pointer, pointer, number, pointer, number)),
            ("configure", number, (pointer, pointer, number, number)),
            ("workspace", ctypes.c_int64, (pointer, pointer, number, number)),
            ("shape_change", number, (pointer, pointer, number, number)),
            ("stored_fields", number, (pointer, pointer, number)),
            ("enqueue", number, (pointer, pointer, number, number, pointer, pointer, pointer)),
        ):
            function = getattr(library, f"idol_trt_{name}")
            function.restype, function.argtypes = result, arguments
    except (OSError, AttributeError) as error:
        raise PluginError(
            f"{harness} cannot be loaded ({error}); build it again: python -m idol_plugins.build"
        ) from error
    return library


class PluginLibrary:
    """A loaded library of plugins; close it, or use it as a context, after all of its plugins.

    Attributes:
        headers: the version of TensorRT's headers that the harness was compiled with, as (10, 14, 1).
    """

    def __init__(self, path: Path, *, harness: Path | None = None, major: int = 0) -> None:
        """Load a library.

        Args:
            path: of the library.
            harness: of `libidol_trt_harness`; None: where `find_library` finds it.
            major: the version of TensorRT that the library is told to be loaded by; 0: the headers'.

        Raises:
            PluginError: the harness is not built, or one of the two cannot be loaded.
        """
        self._harness = _load(find_library("idol_trt_harness") if harness is None else harness)
        version = int(self._harness.idol_trt_headers())
        self.headers = version // 10000, version // 100 % 100, version % 100
        why = ctypes.create_string_buffer(1024)
        self._handle = self._harness.idol_trt_open(str(path).encode(), major, why, len(why))
        if not self._handle:
            raise PluginError(
                f"{path} is no library of TensorRT plugins ({why.value.decode()}); build it again: "
                "python -m idol_plugins.build"
            )

    def __enter__(self) -> "PluginLibrary":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Unload the library."""
        self._harness.idol_trt_close(self._handle)

    def said(self) -> list[tuple[int, str]]:
        """Severity (0 is the worst, 1 an error, 2 a warning) and text of what was logged since the last call."""
        lines = self._harness.idol_trt_said(self._handle).decode().splitlines()
        return [(int(line.split(" ", 1)[0]), line.split(" ", 1)[1]) for line in lines]

    @property
    def on_host(self) -> bool:
        """Plugins take host pointers."""
        return bool(self._harness.idol_trt_on_host(self._handle) == 1)

    @property
    def creators(self) -> int:
        """How many there are."""
        return int(self._harness.idol_trt_creators(self._handle))

    def identity(self, creator: int = 0) -> tuple[str | None, ...]:
        """Interface, name, version and namespace of a creator."""
        ask = self._harness.idol_trt_creator_text
        return tuple(_text(ask(self._handle, creator, what)) for what in (_KIND, _NAME, _VERSION, _NAMESPACE))

    def fields(self, creator: int = 0) -> list[Field]:
        """What a creator asks for."""
        fields = (_Field * _MOST_FIELDS)()
        return _unpack(
            fields, self._harness.idol_trt_creator_fields(self._handle, creator, fields, _MOST_FIELDS)
        )

    def create(self, fields: Sequence[Field], phase: int, creator: int = 0) -> "Plugin | None":
        """A plugin made of fields whose memory is overwritten right after; None: the creator refuses."""
        copies = [None if field.values is None else field.values.copy() for field in fields]
        packed = [
            _Field(
                field.name.encode(),
                None if copy is None else copy.ctypes.data,
                int(field.type),
                field.length if field.length is not None else 0 if copy is None else copy.size,
            )
            for field, copy in zip(fields, copies, strict=True)
        ]
        array = (_Field * len(packed))(*packed)
        handle = self._harness.idol_trt_create(self._handle, creator, array, len(packed), int(phase))
        for copy in copies:
            if copy is not None:
                copy.fill(-1)
        return Plugin(self._harness, handle) if handle else None


class Plugin:
    """A plugin; destroy it, or use it as a context."""

    def __init__(self, harness: ctypes.CDLL, handle: int) -> None:
        self._harness, self._handle = harness, handle

    def __enter__(self) -> "Plugin":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.destroy()

    def destroy(self) -> None:
        """Delete it, as TensorRT would."""
        self._harness.idol_trt_destroy(self._handle)

    def clone(self) -> "Plugin | None":
        """A copy."""
        handle = self._harness.idol_trt_clone(self._handle)
        return Plugin(self._harness, handle) if handle else None

    def attach(self) -> "Plugin | None":
        """A copy for an execution context."""
        handle = self._harness.idol_trt_attach(self._handle)
        return Plugin(self._harness, handle) if handle else None

    @property
    def identity(self) -> tuple[str | None, ...]:
        """Interface, name, version and namespace."""
        return tuple(self._ask(what) for what in (_KIND, _NAME, _VERSION, _NAMESPACE))

    @property
    def cache_id(self) -> str | None:
        """What tells its timings from another's."""
        return self._ask(_CACHE_ID)

    @property
    def metadata(self) -> str | None:
        """What an engine's inspector shows of it."""
        return self._ask(_METADATA)

    def _ask(self, what: int) -> str | None:
        return _text(self._harness.idol_trt_plugin_text(self._handle, what))

    def capability(self, capability: int) -> str | None:
        """The interface of a capability, as "KIND major.minor"."""
        return _text(self._harness.idol_trt_capability(self._handle, capability))

    @property
    def outputs(self) -> int:
        """How many."""
        return int(self._harness.idol_trt_outputs(self._handle))

    @property
    def tactics(self) -> int:
        """How many."""
        return int(self._harness.idol_trt_tactics(self._handle))

    def aliased(self, output: int) -> int:
        """The input that an output shares its memory with; -1: none."""
        return int(self._harness.idol_trt_aliased(self._handle, output))

    def supports(self, position: int, tensors: Sequence[Tensor], inputs: int = 3) -> bool:
        """Of a combination, of which only what comes up to the position counts."""
        packed = _pack(tensors)
        outputs = len(tensors) - inputs
        return bool(self._harness.idol_trt_supports(self._handle, position, packed, inputs, outputs))

    def output_types(self, inputs: Sequence[int], outputs: int = 1) -> tuple[int, list[int]]:
        """Status and types."""
        given, found = (ctypes.c_int32 * len(inputs))(*map(int, inputs)), (ctypes.c_int32 * outputs)()
        status = self._harness.idol_trt_output_types(self._handle, given, len(inputs), found, outputs)
        return int(status), list(found)

    def output_shapes(
        self, known: Sequence[Tensor], actual: Sequence[Tensor], outputs: int = 1
    ) -> tuple[int, list[tuple[int, ...]]]:
        """Status, and what shapes come to.

        Args:
            known: inputs as the network is built; negative sizes are symbols.
            actual: inputs as it runs.
            outputs: how many to ask for.

        Returns:
            Status and shapes of the outputs when the inputs are `actual`; a size that depends on a symbol is
            negated, less one: -4 for 3.
        """
        found = (_Tensor * outputs)()
        status = self._harness.idol_trt_output_shapes(
            self._handle, _pack(known), _pack(actual), len(known), found, outputs
        )
        return int(status), [tuple(tensor.sizes[: tensor.rank]) for tensor in found]

    def configure(self, tensors: Sequence[Tensor], inputs: int = 3) -> int:
        """Status."""
        return int(
            self._harness.idol_trt_configure(self._handle, _pack(tensors), inputs, len(tensors) - inputs)
        )

    def workspace(self, tensors: Sequence[Tensor], inputs: int = 3) -> int:
        """Bytes."""
        return int(
            self._harness.idol_trt_workspace(self._handle, _pack(tensors), inputs, len(tensors) - inputs)
        )

    def shape_change(self, tensors: Sequence[Tensor], inputs: int = 3) -> int:
        """Status."""
        return int(
            self._harness.idol_trt_shape_change(self._handle, _pack(tensors), inputs, len(tensors) - inputs)
        )

    def stored_fields(self) -> list[Field]:
        """What an engine keeps of it."""
        fields = (_Field * _MOST_FIELDS)()
        return _unpack(fields, self._harness.idol_trt_stored_fields(self._handle, fields, _MOST_FIELDS))

    def enqueue(
        self, tensors: Sequence[Tensor], inputs: Sequence[int], outputs: Sequence[int], stream: int = 0
    ) -> int:
        """Status; `inputs` and `outputs` are addresses, `stream` is a cudaStream_t."""
        given, made = (ctypes.c_void_p * len(inputs))(*inputs), (ctypes.c_void_p * len(outputs))(*outputs)
        return int(
            self._harness.idol_trt_enqueue(
                self._handle, _pack(tensors), len(inputs), len(outputs), given, made, stream
            )
        )
