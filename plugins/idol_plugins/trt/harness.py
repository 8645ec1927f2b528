"""A plugin library used as TensorRT uses it, without TensorRT: `csrc/trt_harness.h` through ctypes.

`idol_plugins.trt.conformance` checks the results.
"""

import contextlib
import ctypes
import enum
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from idol_plugins.errors import PluginError
from idol_plugins.libraries import BUILD, find_library, load_library
from idol_plugins.reference import Array

__all__ = ["Capability", "Field", "FieldType", "Phase", "Plugin", "PluginLibrary", "Tensor", "TensorType"]

_MAX_DIMS, _MAX_FIELDS = 8, 64
_INTERFACE, _NAME, _VERSION, _NAMESPACE, _CACHE_ID, _METADATA = range(6)
# Result types of the harness's functions that return no 32-bit integer.
_RESULTS = {
    **dict.fromkeys(("open", "create", "clone", "attach"), ctypes.c_void_p),
    **dict.fromkeys(("said", "creator_text", "plugin_text", "capability"), ctypes.c_char_p),
    "workspace": ctypes.c_int64,
}


class TensorType(enum.IntEnum):
    """`nvinfer1::DataType`, the types that the checks use."""

    FLOAT = 0
    HALF = 1
    INT8 = 2
    BF16 = 7


class FieldType(enum.IntEnum):
    """`nvinfer1::PluginFieldType`, the types that attributes can have."""

    FLOAT32 = 1
    INT32 = 5
    CHAR = 6
    INT64 = 10


class Phase(enum.IntEnum):
    """`nvinfer1::TensorRTPhase`."""

    BUILD = 0
    RUNTIME = 1


class Capability(enum.IntEnum):
    """`nvinfer1::PluginCapabilityType`."""

    CORE = 0
    BUILD = 1
    RUNTIME = 2


@dataclass(frozen=True)
class Tensor:
    """TensorRT's description of a tensor.

    Attributes:
        type: Type of an element; may be a number that is no `TensorType`.
        sizes: At most 8 sizes; negative: not known yet.
        format: `nvinfer1::TensorFormat`; 0 is linear.
    """

    type: int
    sizes: tuple[int, ...] = ()
    format: int = 0


@dataclass(frozen=True, eq=False)
class Field:
    """An attribute as TensorRT passes it.

    Attributes:
        name: Name of the attribute.
        type: Type of its values.
        values: Values in memory; None: a null pointer.
        length: Declared number of values; None: the actual number.
    """

    name: str
    type: int
    values: Array | None
    length: int | None = None


class _Tensor(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_int32) for name in ("type", "format", "rank")),
        ("sizes", ctypes.c_int64 * _MAX_DIMS),
    )


class _Field(ctypes.Structure):
    _fields_ = (
        *(("name", ctypes.c_char_p), ("data", ctypes.c_void_p)),
        *(("type", ctypes.c_int32), ("length", ctypes.c_int32)),
    )


def _pack(tensors: Sequence[Tensor]) -> Any:
    sizes = ctypes.c_int64 * _MAX_DIMS
    packed = (_Tensor(int(t.type), t.format, len(t.sizes), sizes(*t.sizes)) for t in tensors)
    return (_Tensor * len(tensors))(*packed)


class _Handle:
    """An object of the harness."""

    def __init__(self, harness: ctypes.CDLL, handle: int) -> None:
        self._harness, self._handle = harness, ctypes.c_void_p(handle)

    def _call(self, name: str, *arguments: Any) -> Any:
        return getattr(self._harness, f"idol_trt_{name}")(self._handle, *arguments)

    def number(self, name: str, *arguments: int) -> int:
        """Call a function of the harness that returns a number, such as `outputs`, and return the number."""
        return int(self._call(name, *arguments))

    def _text(self, name: str, *arguments: int) -> str | None:
        text: bytes | None = self._call(name, *arguments)
        return None if text is None else text.decode()

    def _texts(self, name: str, *arguments: int) -> tuple[str | None, ...]:
        kinds = _INTERFACE, _NAME, _VERSION, _NAMESPACE
        return tuple(self._text(name, *arguments, kind) for kind in kinds)

    def _fields(self, name: str, *arguments: int) -> list[Field]:
        """Return copies of fields, because the library may free its memory."""
        fields = (_Field * _MAX_FIELDS)()
        copies = []
        for field in fields[: self._call(name, *arguments, fields, _MAX_FIELDS)]:
            dtype = {FieldType.INT32: np.int32, FieldType.INT64: np.int64}.get(field.type, np.int8)
            size = field.length * np.dtype(dtype).itemsize
            values = np.frombuffer(ctypes.string_at(field.data, size), dtype) if field.data else None
            copies.append(Field(field.name.decode(), field.type, values, field.length))
        return copies


class PluginLibrary(_Handle, contextlib.AbstractContextManager["PluginLibrary"]):
    """A loaded library of plugins; use it as a context, which must end after its plugins.

    Attributes:
        headers: Version of the TensorRT headers that the harness was compiled with, for example (10, 14, 1).
    """

    def __init__(self, path: Path, *, harness: Path | None = None, major: int = 0) -> None:
        """Load a library.

        Args:
            path: Path of the library.
            harness: Path of `libidol_trt_harness`; None: the result of `find_library`.
            major: Major version of TensorRT to pass to the library; 0: the version of the headers.

        Raises:
            PluginError: The harness is not built, or one of the two cannot be loaded.
        """
        loaded = load_library(
            find_library("idol_trt_harness") if harness is None else harness,
            *(f"idol_trt_{name}" for name in _RESULTS),
        )
        for name, result in _RESULTS.items():
            getattr(loaded, f"idol_trt_{name}").restype = result
        version = int(loaded.idol_trt_headers())
        self.headers = version // 10000, version // 100 % 100, version % 100
        why = ctypes.create_string_buffer(1024)
        handle = loaded.idol_trt_open(str(path).encode(), major, why, len(why))
        if not handle:
            raise PluginError(
                f"{path} is no library of TensorRT plugins ({why.value.decode()}); build it again: {BUILD} --cuda"
            )
        super().__init__(loaded, handle)

    def __exit__(self, *_: object) -> None:
        self._call("close")

    def log(self) -> list[tuple[int, str]]:
        """Return severity (0 internal error, 1 error, 2 warning) and text of the log lines since the last call."""
        lines = (line.partition(" ") for line in (self._text("said") or "").splitlines())
        return [(int(severity), text) for severity, _, text in lines]

    def identity(self) -> tuple[str | None, ...]:
        """Return interface, name, version and namespace of the first creator."""
        return self._texts("creator_text", 0)

    def fields(self) -> list[Field]:
        """Return the fields that the first creator declares."""
        return self._fields("creator_fields", 0)

    def create(self, fields: Sequence[Field], phase: int) -> "Plugin | None":
        """Make a plugin of fields, whose memory is overwritten afterwards; None: the creator refuses them."""
        copies = [None if field.values is None else field.values.copy() for field in fields]
        array = (_Field * len(fields))()
        for packed, field, copy in zip(array, fields, copies, strict=True):
            packed.name, packed.type = field.name.encode(), int(field.type)
            packed.data = None if copy is None else copy.ctypes.data
            actual = 0 if copy is None else copy.size
            packed.length = actual if field.length is None else field.length
        handle = self._call("create", 0, array, len(fields), int(phase))
        for copy in copies:
            if copy is not None:
                copy.fill(-1)
        return Plugin(self._harness, handle) if handle else None


class Plugin(_Handle, contextlib.AbstractContextManager["Plugin"]):
    """A plugin; destroy it, or use it as a context.

    Methods that return a status return 0 for success. `inputs` is the number of tensors that are inputs.
    """

    def __exit__(self, *_: object) -> None:
        self.destroy()

    def destroy(self) -> None:
        """Delete the plugin, as TensorRT does."""
        self._call("destroy")

    def copy(self, function: str) -> "Plugin | None":
        """Return a copy by `clone`, or by `attach` for an execution context; None if the plugin fails to make one."""
        handle = self._call(function)
        return Plugin(self._harness, handle) if handle else None

    @property
    def identity(self) -> tuple[str | None, ...]:
        """Interface, name, version and namespace."""
        return self._texts("plugin_text")

    @property
    def cache_id(self) -> str | None:
        """Key of the plugin's timings in TensorRT's timing cache."""
        return self._text("plugin_text", _CACHE_ID)

    @property
    def metadata(self) -> str | None:
        """Text that an engine's inspector shows."""
        return self._text("plugin_text", _METADATA)

    def capability(self, capability: int) -> str | None:
        """Return the interface of a capability, as "KIND major.minor"; None if the plugin lacks it."""
        return self._text("capability", capability)

    def supports(self, position: int, tensors: Sequence[Tensor], inputs: int = 3) -> bool:
        """Return True if the plugin supports the tensors up to and including a position."""
        return bool(self._call("supports", position, _pack(tensors), inputs, len(tensors) - inputs))

    def output_types(self, inputs: Sequence[int]) -> tuple[int, list[int]]:
        """Return status and types of the outputs."""
        types, results = (ctypes.c_int32 * len(inputs))(*map(int, inputs)), (ctypes.c_int32 * 1)()
        status = self._call("output_types", types, len(inputs), results, 1)
        return int(status), list(results)

    def output_shapes(
        self, known: Sequence[Tensor], actual: Sequence[Tensor]
    ) -> tuple[int, list[tuple[int, ...]]]:
        """Evaluate the shapes of the outputs.

        Args:
            known: Inputs when the network is built; negative sizes are symbols.
            actual: Inputs when the network runs.

        Returns:
            Status, and the shapes of the outputs for `actual`. A size that depends on a symbol is negated, less one:
            -4 for 3.
        """
        results = (_Tensor * 1)()
        status = self._call("output_shapes", _pack(known), _pack(actual), len(known), results, 1)
        return int(status), [tuple(tensor.sizes[: tensor.rank]) for tensor in results]

    def with_tensors(self, function: str, tensors: Sequence[Tensor], inputs: int = 3) -> int:
        """Call `configure` or `shape_change` and return the status, or `workspace` and return the size in bytes."""
        return int(self._call(function, _pack(tensors), inputs, len(tensors) - inputs))

    def stored_fields(self) -> list[Field]:
        """Return the fields that an engine stores."""
        return self._fields("stored_fields")

    def enqueue(
        self, tensors: Sequence[Tensor], inputs: Sequence[int], outputs: Sequence[int], stream: int = 0
    ) -> int:
        """Run the plugin and return the status.

        Args:
            tensors: Descriptions of inputs and outputs.
            inputs: Addresses of the inputs.
            outputs: Addresses of the outputs.
            stream: A cudaStream_t.
        """
        counts = len(inputs), len(outputs)
        addresses = ((ctypes.c_void_p * len(group))(*group) for group in (inputs, outputs))
        return int(self._call("enqueue", _pack(tensors), *counts, *addresses, ctypes.c_void_p(stream)))
