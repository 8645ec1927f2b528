"""The kernel on a CPU, called from numpy: `csrc/idol_deform_attn_cpu.h` through ctypes.

Letters as in `idol_plugins.reference`. Values may be float32, float16, or bfloat16: as `ml_dtypes` defines it, or its
bits as uint16.
"""

import ctypes
import enum
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from idol_plugins.abi import (
    ClassicCall,
    DeviceArray,
    Options,
    check,
    fused_call,
    fused_grad_call,
    make_cells,
    make_sizes,
    refusal,
    type_code,
)
from idol_plugins.libraries import find_library, load_library
from idol_plugins.reference import Shapes

__all__ = ["ABI", "CpuLibrary", "Isa"]

ABI = 2
LIBRARY = "idol_deform_attn_cpu"

Array: TypeAlias = NDArray[Any]


class Isa(enum.IntEnum):
    """Which instructions to use; AUTO takes the best that the processor and the head width allow."""

    AUTO = 0
    SCALAR = 1
    VEC128 = 2
    AVX2 = 3
    AVX512 = 4


class CpuLibrary:
    """A loaded `libidol_deform_attn_cpu`."""

    def __init__(self, path: Path | None = None) -> None:
        """Load the library.

        Args:
            path: of the file; None: where `find_library` finds it.

        Raises:
            PluginError: it is not built, cannot be loaded, or is of another version.
        """
        self.path = find_library(LIBRARY) if path is None else path
        self._library = load_library(self.path, "idol_deform_attn_abi", ABI)
        self._library.idol_deform_attn_offers.argtypes = (ctypes.c_int32, ctypes.c_int64)

    def offers(self, isa: Isa, width: int = 32) -> bool:
        """Whether this build on this processor has the instructions, for heads of `width` channels."""
        return bool(self._library.idol_deform_attn_offers(isa, width))

    def deformable_attention(
        self,
        value: Array,  # [N, S, M, D]
        shapes: Shapes,  # (h, w) per level
        merged: Array,  # [N, Q, M * L * P * 3] offsets [M, L, P, 2], then logits [M, L * P]
        reference: Array,  # [N or 1, Q, L, 2 or 4] float32
        *,
        isa: Isa = Isa.AUTO,
        threads: int = 1,
    ) -> Array:  # [N, Q, M * D] of value's type
        """Deformable attention from raw projections; `idol_plugins.reference.deformable_attention` is its twin.

        Raises:
            PluginError: types or shapes do not fit, or the instructions are not there.
        """
        arrays = _dense(value, merged, np.asarray(reference, np.float32))
        if value.ndim != 4 or merged.ndim != 3:
            raise refusal(3)
        out = np.empty((*merged.shape[:2], value.shape[2] * value.shape[3]), value.dtype)
        of_value, of_merged, of_reference = map(_describe, arrays)
        self.fused(of_value, shapes, of_merged, of_reference, _describe(out), isa=isa, threads=threads)
        return out

    def deformable_attention_backward(
        self,
        grad: Array,  # [N, Q, M * D] of value's type: the gradient of what the above returns
        value: Array,  # [N, S, M, D]
        shapes: Shapes,  # (h, w) per level
        merged: Array,  # [N, Q, M * L * P * 3]
        reference: Array,  # [N or 1, Q, L, 2 or 4] float32
        *,
        isa: Isa = Isa.AUTO,
        threads: int = 1,
    ) -> tuple[Array, Array, Array]:
        """The gradients of value, merged and reference, all float32; the same bits on any number of threads.

        Raises:
            PluginError: types or shapes do not fit, or the instructions are not there.
        """
        arrays = _dense(grad, value, merged, np.asarray(reference, np.float32))
        found = tuple(np.empty(array.shape, np.float32) for array in arrays[1:])
        of_grad, of_value, of_merged, of_reference = map(_describe, arrays)
        wanted = [_describe(array) for array in found]
        self.fused_backward(
            of_grad, of_value, shapes, of_merged, of_reference, wanted, isa=isa, threads=threads
        )
        return found[0], found[1], found[2]

    def fused(
        self,
        value: DeviceArray,
        shapes: Shapes,
        merged: DeviceArray,
        reference: DeviceArray,
        out: DeviceArray,
        *,
        isa: Isa = Isa.AUTO,
        threads: int = 1,
    ) -> None:
        """`deformable_attention` of arrays of any library, into another.

        Raises:
            PluginError: types or shapes do not fit, or the instructions are not there.
        """
        call, _held = fused_call(value, shapes, merged, reference, out)
        options = Options(isa=isa, threads=threads)
        check(self._library.idol_deform_attn_fused(ctypes.byref(call), ctypes.byref(options)))

    def fused_backward(
        self,
        grad: DeviceArray,
        value: DeviceArray,
        shapes: Shapes,
        merged: DeviceArray,
        reference: DeviceArray,
        wanted: Sequence[DeviceArray | None],  # of value, merged, reference: float32; None is not wanted
        *,
        isa: Isa = Isa.AUTO,
        threads: int = 1,
    ) -> None:
        """`deformable_attention_backward` of arrays of any library, into others.

        Raises:
            PluginError: types or shapes do not fit, or the instructions are not there.
        """
        call, _held = fused_grad_call(grad, value, shapes, merged, reference, wanted)
        options = Options(isa=isa, threads=threads)
        check(self._library.idol_deform_attn_fused_backward(ctypes.byref(call), ctypes.byref(options)))

    def ms_deform_attn(
        self,
        value: Array,  # [N, S, M, D]
        shapes: Shapes,  # (h, w) per level
        locations: Array,  # [N, Q, M, L, P, 2] float32 x, y; 0 and 1 are the outer edges of the border cells
        weights: Array,  # [N, Q, M, L, P] float32
        *,
        isa: Isa = Isa.AUTO,
        threads: int = 1,
    ) -> Array:  # [N, Q, M * D] of value's type
        """Weighted sum of bilinear samples; `idol_plugins.reference.ms_deform_attn` is its twin.

        Raises:
            PluginError: types or shapes do not fit, or the instructions are not there.
        """
        value = np.ascontiguousarray(value)
        locations = np.ascontiguousarray(locations, np.float32)
        weights = np.ascontiguousarray(weights, np.float32)
        if value.ndim != 4 or weights.ndim != 5:
            raise refusal(3)
        N, _, M, D = value.shape
        Q, L, P = weights.shape[1], len(shapes), weights.shape[4]
        if weights.shape != (N, Q, M, L, P) or locations.shape != (*weights.shape, 2):
            raise refusal(3)
        cells = make_cells(shapes)
        out = np.empty((N, Q, M * D), value.dtype)
        call = ClassicCall(
            sizes=make_sizes(value.shape, Q, L, P, cells),
            type=type_code(value.dtype.name),
            value=value.ctypes.data,
            locations=locations.ctypes.data,
            weights=weights.ctypes.data,
            out=out.ctypes.data,
        )
        options = Options(isa=isa, threads=threads)
        check(self._library.idol_deform_attn_classic(ctypes.byref(call), ctypes.byref(options)))
        return out


def _dense(*arrays: Array) -> tuple[Array, ...]:
    return tuple(np.ascontiguousarray(array) for array in arrays)


def _describe(array: Array) -> DeviceArray:
    return DeviceArray(array.ctypes.data, array.shape, array.dtype.name)
