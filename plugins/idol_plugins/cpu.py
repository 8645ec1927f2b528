"""The kernel on a CPU, called from numpy: `csrc/idol_deform_attn_cpu.h` through ctypes.

Letters as in `idol_plugins.reference`. Values may be float32, float16, or bfloat16 as `ml_dtypes` defines it.
"""

import ctypes
import enum
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from idol_plugins.abi import (
    ClassicCall,
    FusedCall,
    Options,
    check,
    make_cells,
    make_sizes,
    refusal,
    type_code,
)
from idol_plugins.errors import PluginError
from idol_plugins.libraries import find_library
from idol_plugins.reference import Shapes

__all__ = ["ABI", "CpuLibrary", "Isa"]

ABI = 1
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
        try:
            self._library = ctypes.CDLL(str(self.path))
            abi = int(self._library.idol_deform_attn_abi())
        except (OSError, AttributeError) as error:
            raise PluginError(
                f"{self.path} cannot be loaded ({error}); build it again: python -m idol_plugins.build"
            ) from error
        if abi != ABI:
            raise PluginError(
                f"{self.path} has interface {abi}, this version needs {ABI}; build it again: "
                "python -m idol_plugins.build"
            )
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
        value, merged = np.ascontiguousarray(value), np.ascontiguousarray(merged)
        reference = np.ascontiguousarray(reference, np.float32)
        if reference.ndim != 4 or merged.ndim != 3 or value.ndim != 4:
            raise refusal(3)
        N, _, M, D = value.shape
        Q, L = merged.shape[1], len(shapes)
        P = merged.shape[2] // max(1, 3 * M * L)
        expected = (N, Q, 3 * M * L * P), (reference.shape[0], Q, L, reference.shape[3])
        if (merged.shape, reference.shape) != expected:
            raise refusal(3)
        cells = make_cells(shapes)
        out = np.empty((N, Q, M * D), value.dtype)
        call = FusedCall(
            sizes=make_sizes(value.shape, Q, L, P, cells),
            type=type_code(value.dtype.name),
            merged_type=type_code(merged.dtype.name),
            value=value.ctypes.data,
            merged=merged.ctypes.data,
            reference=reference.ctypes.data,
            reference_images=reference.shape[0],
            reference_width=reference.shape[3],
            out=out.ctypes.data,
        )
        options = Options(isa=isa, threads=threads)
        check(self._library.idol_deform_attn_fused(ctypes.byref(call), ctypes.byref(options)))
        return out

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
