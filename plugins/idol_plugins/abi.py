"""The structures of `csrc/idol_deform_attn_cpu.h` for ctypes; the CUDA library takes the same ones.

Letters as in `idol_plugins.reference`.
"""

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from idol_plugins.errors import PluginError
from idol_plugins.reference import Array, Shapes

__all__ = [
    "DeviceArray",
    "Options",
    "check",
    "classic_call",
    "fused_call",
    "fused_grad_call",
    "refusal",
    "type_code",
]

# numpy has no bfloat16: ml_dtypes defines one, and callers without ml_dtypes pass the bits as uint16.
_TYPES = {"float32": 0, "float16": 1, "bfloat16": 2, "uint16": 2}
_BAD_TYPE, _BAD_SIZES = 2, 3
# Messages by status, in the order of the header.
_REFUSALS = {
    1: "got a null pointer; report this as a bug",
    2: "does not support these types; pass values in float32, float16 or bfloat16, and projections in float32, or "
    "float16 with float16 values",
    3: "got sizes that do not fit; all must be positive, with one token for each cell of all levels",
    4: "has no kernel with these instructions for this processor and head width; use Isa.AUTO",
    5: "ran out of memory; use fewer threads",
}
_I32, _I64, _POINTER = ctypes.c_int32, ctypes.c_int64, ctypes.c_void_p


@dataclass(frozen=True)
class DeviceArray:
    """A dense array in the memory of the device that reads or writes it.

    Attributes:
        pointer: Address of the array; a multiple of 16 on a CUDA device.
        shape: Shape of the array.
        dtype: numpy's name of the element type.
    """

    pointer: int
    shape: tuple[int, ...]
    dtype: str


class Options(ctypes.Structure):
    """`idol_options`."""

    _fields_ = (("isa", _I32), ("threads", _I32), ("parallel_for", _POINTER), ("pool", _POINTER))


class _Sizes(ctypes.Structure):
    """`idol_sizes`."""

    _fields_ = (
        *((name, _I64) for name in ("images", "tokens", "queries", "heads", "width", "levels", "points")),
        ("shapes", _POINTER),
    )


class _Call(ctypes.Structure):
    def __init__(self, cells: Array, *fields: object) -> None:
        super().__init__(*fields)
        self.cells = cells  # [L, 2] int64; `sizes.shapes` points to it, so it must live as long as the call


class _FusedCall(_Call):
    """`idol_fused`."""

    _fields_ = (
        *(("sizes", _Sizes), ("type", _I32), ("merged_type", _I32)),
        *((name, _POINTER) for name in ("value", "merged", "reference")),
        *(("reference_images", _I64), ("reference_width", _I64), ("out", _POINTER)),
    )


class _FusedGradCall(_Call):
    """`idol_fused_grad`."""

    _fields_ = (
        ("call", _FusedCall),
        *((f"grad_{name}", _POINTER) for name in ("out", "value", "merged", "reference")),
    )


class _ClassicCall(_Call):
    """`idol_classic`."""

    _fields_ = (
        *(("sizes", _Sizes), ("type", _I32)),
        *((name, _POINTER) for name in ("value", "locations", "weights", "out")),
    )


def _make_sizes(value: DeviceArray, shapes: Shapes, queries: int, points: int) -> tuple[_Sizes, Array]:
    """Return the sizes of a call and the array that they point to."""
    N, S, M, D = value.shape
    cells = np.array(shapes, np.int64).reshape(-1, 2)
    return _Sizes(N, S, queries, M, D, len(shapes), points, cells.ctypes.data), cells


def fused_call(
    value: DeviceArray,  # [N, S, M, D]
    shapes: Shapes,
    merged: DeviceArray,  # [N, Q, M * L * P * 3]
    reference: DeviceArray,  # [N or 1, Q, L, 2 or 4] float32
    out: DeviceArray | None,  # [N, Q, M * D] of value's type; None in the call of a gradient
) -> _FusedCall:
    """Return a call of the fused form.

    Raises:
        PluginError: The types or shapes do not fit each other.
    """
    if (len(value.shape), len(merged.shape), len(reference.shape)) != (4, 3, 4):
        raise refusal(_BAD_SIZES)
    M, L, Q = value.shape[2], len(shapes), merged.shape[1]
    P = merged.shape[2] // max(1, 3 * M * L)
    if merged.shape != (value.shape[0], Q, 3 * M * L * P) or reference.shape[1:3] != (Q, L):
        raise refusal(_BAD_SIZES)
    if reference.dtype != "float32":
        raise refusal(_BAD_TYPE)
    if out is not None:
        _expect(out, (*merged.shape[:2], M * value.shape[3]), value.dtype)
    sizes, cells = _make_sizes(value, shapes, Q, P)
    return _FusedCall(
        cells,
        *(sizes, type_code(value.dtype), type_code(merged.dtype)),
        *(value.pointer, merged.pointer, reference.pointer),
        *(reference.shape[0], reference.shape[3], None if out is None else out.pointer),
    )


def fused_grad_call(
    grad: DeviceArray,  # [N, Q, M * D] of value's type
    value: DeviceArray,
    shapes: Shapes,
    merged: DeviceArray,
    reference: DeviceArray,
    gradients: Sequence[DeviceArray | None],  # float32, as value, merged, reference; None: skip
) -> _FusedGradCall:
    """Return a call of the fused form's gradient.

    Raises:
        PluginError: The types or shapes do not fit each other.
    """
    forward = fused_call(value, shapes, merged, reference, None)
    _expect(grad, (*merged.shape[:2], value.shape[2] * value.shape[3]), value.dtype)
    for array, like in zip(gradients, (value, merged, reference), strict=True):
        if array is not None:
            _expect(array, like.shape, "float32")
    pointers = (None if array is None else array.pointer for array in gradients)
    return _FusedGradCall(forward.cells, forward, grad.pointer, *pointers)


def classic_call(
    value: DeviceArray,  # [N, S, M, D]
    shapes: Shapes,
    locations: DeviceArray,  # [N, Q, M, L, P, 2] float32
    weights: DeviceArray,  # [N, Q, M, L, P] float32
    out: DeviceArray,  # [N, Q, M * D] of value's type
) -> _ClassicCall:
    """Return a call of the classic form.

    Raises:
        PluginError: The types or shapes do not fit each other.
    """
    if len(value.shape) != 4 or len(weights.shape) != 5:
        raise refusal(_BAD_SIZES)
    N, _, M, D = value.shape
    Q, L, P = weights.shape[1], len(shapes), weights.shape[4]
    _expect(weights, (N, Q, M, L, P), "float32")
    _expect(locations, (N, Q, M, L, P, 2), "float32")
    _expect(out, (N, Q, M * D), value.dtype)
    sizes, cells = _make_sizes(value, shapes, Q, P)
    pointers = (array.pointer for array in (value, locations, weights, out))
    return _ClassicCall(cells, sizes, type_code(value.dtype), *pointers)


def _expect(array: DeviceArray, shape: tuple[int, ...], dtype: str) -> None:
    if array.shape != shape:
        raise refusal(_BAD_SIZES)
    if array.dtype != dtype:
        raise refusal(_BAD_TYPE)


def type_code(name: str) -> int:
    """Return the interface's number of a type.

    Args:
        name: numpy's name of the type.

    Raises:
        PluginError: The kernel does not support the type.
    """
    if name not in _TYPES:
        raise refusal(_BAD_TYPE)
    return _TYPES[name]


def refusal(status: int) -> PluginError:
    """Return the error for a status other than 0."""
    message = _REFUSALS.get(status, f"failed with status {status}; report this as a bug")
    return PluginError(f"the deformable attention {message}")


def check(status: int) -> None:
    """Raise the error for a status, unless the status is 0."""
    if status:
        raise refusal(status)
