"""The structures of `csrc/idol_deform_attn_cpu.h`, for ctypes; the CUDA library takes the same."""

import ctypes

import numpy as np
from numpy.typing import NDArray

from idol_plugins.errors import PluginError
from idol_plugins.reference import Shapes

__all__ = [
    "ClassicCall",
    "FusedCall",
    "Options",
    "Sizes",
    "check",
    "make_cells",
    "make_sizes",
    "refusal",
    "type_code",
]

_TYPES = {"float32": 0, "float16": 1, "bfloat16": 2}
# By status, in the order of the header.
_REFUSALS = {
    1: "was given a null pointer; report this",
    2: "does not take these types: values are float32, float16 or bfloat16, and projections float32, or float16 "
    "with float16 values",
    3: "refuses the sizes: all must be positive, and the tokens as many as the cells of all levels",
    4: "has no such instructions for this processor and head width; use Isa.AUTO",
    5: "ran out of memory; use fewer threads",
}


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
