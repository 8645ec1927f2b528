"""The structures of `csrc/idol_deform_attn_cpu.h`, for ctypes; the CUDA library takes the same."""

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from idol_plugins.errors import PluginError
from idol_plugins.reference import Shapes

__all__ = [
    "ClassicCall",
    "DeviceArray",
    "FusedCall",
    "FusedGradCall",
    "Options",
    "Sizes",
    "check",
    "fused_call",
    "fused_grad_call",
    "make_cells",
    "make_sizes",
    "refusal",
    "type_code",
]

# numpy has no bfloat16: ml_dtypes has, and who does without it passes the bits.
_TYPES = {"float32": 0, "float16": 1, "bfloat16": 2, "uint16": 2}
# By status, in the order of the header.
_REFUSALS = {
    1: "was given a null pointer; report this",
    2: "does not take these types: values are float32, float16 or bfloat16, and projections float32, or float16 "
    "with float16 values",
    3: "refuses the sizes: all must be positive, and the tokens as many as the cells of all levels",
    4: "has no such instructions for this processor and head width; use Isa.AUTO",
    5: "ran out of memory; use fewer threads",
}


@dataclass(frozen=True)
class DeviceArray:
    """A dense array, in the memory of the device that is to read or write it.

    Attributes:
        pointer: its address; a multiple of 16 on a CUDA device.
        shape: of the array.
        dtype: numpy's name of its type.
    """

    pointer: int
    shape: tuple[int, ...]
    dtype: str


class Options(ctypes.Structure):
    """`idol_options`."""

    _fields_ = (
        ("isa", ctypes.c_int32),
        ("threads", ctypes.c_int32),
        ("parallel_for", ctypes.c_void_p),
        ("pool", ctypes.c_void_p),
    )


class Sizes(ctypes.Structure):
    """`idol_sizes`."""

    _fields_ = (
        *(
            (name, ctypes.c_int64)
            for name in ("images", "tokens", "queries", "heads", "width", "levels", "points")
        ),
        ("shapes", ctypes.c_void_p),
    )


class FusedCall(ctypes.Structure):
    """`idol_fused`."""

    _fields_ = (
        ("sizes", Sizes),
        ("type", ctypes.c_int32),
        ("merged_type", ctypes.c_int32),
        ("value", ctypes.c_void_p),
        ("merged", ctypes.c_void_p),
        ("reference", ctypes.c_void_p),
        ("reference_images", ctypes.c_int64),
        ("reference_width", ctypes.c_int64),
        ("out", ctypes.c_void_p),
    )


class FusedGradCall(ctypes.Structure):
    """`idol_fused_grad`."""

    _fields_ = (
        ("call", FusedCall),
        ("grad_out", ctypes.c_void_p),
        ("grad_value", ctypes.c_void_p),
        ("grad_merged", ctypes.c_void_p),
        ("grad_reference", ctypes.c_void_p),
    )


class ClassicCall(ctypes.Structure):
    """`idol_classic`."""

    _fields_ = (
        ("sizes", Sizes),
        ("type", ctypes.c_int32),
        ("value", ctypes.c_void_p),
        ("locations", ctypes.c_void_p),
        ("weights", ctypes.c_void_p),
        ("out", ctypes.c_void_p),
    )


def make_cells(shapes: Shapes) -> NDArray[np.int64]:
    """(h, w) per level, as the interface reads them; keep it for as long as the call."""
    return np.array(shapes, np.int64).reshape(-1, 2)


def make_sizes(
    value: tuple[int, ...], queries: int, levels: int, points: int, cells: NDArray[np.int64]
) -> Sizes:
    """The sizes of a call whose value is [N, S, M, D]."""
    N, S, M, D = value
    return Sizes(
        images=N,
        tokens=S,
        queries=queries,
        heads=M,
        width=D,
        levels=levels,
        points=points,
        shapes=cells.ctypes.data,
    )


def fused_call(
    value: DeviceArray,  # [N, S, M, D]
    shapes: Shapes,
    merged: DeviceArray,  # [N, Q, M * L * P * 3]
    reference: DeviceArray,  # [N or 1, Q, L, 2 or 4]
    out: DeviceArray | None,  # [N, Q, M * D]; None in the call of a gradient
) -> tuple[FusedCall, object]:
    """A call, and what must live as long as it.

    Raises:
        PluginError: types or shapes do not fit each other.
    """
    if (len(value.shape), len(merged.shape), len(reference.shape)) != (4, 3, 4):
        raise refusal(3)
    M, L, Q = value.shape[2], len(shapes), merged.shape[1]
    P = merged.shape[2] // max(1, 3 * M * L)
    if merged.shape != (value.shape[0], Q, 3 * M * L * P) or reference.shape[1:3] != (Q, L):
        raise refusal(3)
    if reference.dtype != "float32":
        raise refusal(2)
    if out is not None:
        _expect(out, (*merged.shape[:2], M * value.shape[3]), value.dtype)
    cells = make_cells(shapes)
    call = FusedCall(
        sizes=make_sizes(value.shape, Q, L, P, cells),
        type=type_code(value.dtype),
        merged_type=type_code(merged.dtype),
        value=value.pointer,
        merged=merged.pointer,
        reference=reference.pointer,
        reference_images=reference.shape[0],
        reference_width=reference.shape[3],
        out=None if out is None else out.pointer,
    )
    return call, cells


def fused_grad_call(
    grad: DeviceArray,  # [N, Q, M * D] of value's type
    value: DeviceArray,
    shapes: Shapes,
    merged: DeviceArray,
    reference: DeviceArray,
    wanted: Sequence[DeviceArray | None],  # of value, merged and reference, of their shapes, float32
) -> tuple[FusedGradCall, object]:
    """The call of a gradient, and what must live as long as it.

    Raises:
        PluginError: types or shapes do not fit each other.
    """
    call, held = fused_call(value, shapes, merged, reference, None)
    _expect(grad, (*merged.shape[:2], value.shape[2] * value.shape[3]), value.dtype)
    for array, like in zip(wanted, (value, merged, reference), strict=True):
        if array is not None:
            _expect(array, like.shape, "float32")
    pointers = (None if array is None else array.pointer for array in wanted)
    return FusedGradCall(call, grad.pointer, *pointers), held


def _expect(array: DeviceArray, shape: tuple[int, ...], dtype: str) -> None:
    if array.shape != shape:
        raise refusal(3)
    if array.dtype != dtype:
        raise refusal(2)


def type_code(name: str) -> int:
    """Of numpy's name of a type.

    Raises:
        PluginError: the kernel does not know it.
    """
    try:
        return _TYPES[name]
    except KeyError:
        raise refusal(2) from None


def refusal(status: int) -> PluginError:
    """What a status says."""
    return PluginError(f"the deformable attention {_REFUSALS.get(status, f'failed with status {status}')}")


def check(status: int) -> None:
    """Raises what a status says, unless it says that all is well."""
    if status:
        raise refusal(status)
