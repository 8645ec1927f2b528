"""The kernel on a CPU, called from numpy: `csrc/idol_deform_attn_cpu.h` through ctypes.

Letters as in `idol_plugins.reference`. Values are float32, float16, or bfloat16: the type of `ml_dtypes`, or its bits
as uint16.
"""

import ctypes
import enum
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from idol_plugins.abi import DeviceArray, Options, check, classic_call, fused_call, fused_grad_call
from idol_plugins.libraries import find_library, load_library
from idol_plugins.reference import Array, Shapes

__all__ = ["ABI", "CpuLibrary", "Isa"]

ABI = 2


class Isa(enum.IntEnum):
    """An instruction set; AUTO selects the best one for the processor and the head width."""

    AUTO = 0
    SCALAR = 1
    VEC128 = 2
    AVX2 = 3
    AVX512 = 4


class CpuLibrary:
    """A loaded `libidol_deform_attn_cpu`.

    Attributes:
        path: Path of the library.
    """

    def __init__(self, path: Path | None = None) -> None:
        """Load the library.

        Args:
            path: Path of the library; None: the result of `find_library`.

        Raises:
            PluginError: The library is not built, cannot be loaded, or has another interface version.
        """
        self.path = find_library("idol_deform_attn_cpu") if path is None else path
        self._library = load_library(self.path, "idol_deform_attn_abi", version=ABI)
        self._library.idol_deform_attn_offers.argtypes = (ctypes.c_int32, ctypes.c_int64)

    def offers(self, isa: Isa, width: int = 32) -> bool:
        """Return True if build and processor support the instructions for heads of `width` channels."""
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
        """Compute `idol_plugins.reference.deformable_attention` from raw projections.

        Raises:
            PluginError: The types or shapes do not fit, or the instructions are not supported.
        """
        arrays = _dense(value, merged, np.asarray(reference, np.float32))
        out = np.empty((*merged.shape[:2], np.prod(value.shape[2:], dtype=int)), value.dtype)
        of_value, of_merged, of_reference = map(_describe, arrays)
        self.fused(of_value, shapes, of_merged, of_reference, _describe(out), isa=isa, threads=threads)
        return out

    def deformable_attention_backward(
        self,
        grad: Array,  # [N, Q, M * D] of value's type: gradient of the output of `deformable_attention`
        value: Array,  # [N, S, M, D]
        shapes: Shapes,  # (h, w) per level
        merged: Array,  # [N, Q, M * L * P * 3]
        reference: Array,  # [N or 1, Q, L, 2 or 4] float32
        *,
        isa: Isa = Isa.AUTO,
        threads: int = 1,
    ) -> tuple[Array, Array, Array]:
        """Compute the float32 gradients of value, merged and reference; bit-identical for any number of threads.

        Raises:
            PluginError: The types or shapes do not fit, or the instructions are not supported.
        """
        arrays = _dense(grad, value, merged, np.asarray(reference, np.float32))
        gradients = tuple(np.empty(array.shape, np.float32) for array in arrays[1:])
        of_grad, of_value, of_merged, of_reference = map(_describe, arrays)
        outputs = [_describe(array) for array in gradients]
        self.fused_backward(
            of_grad, of_value, shapes, of_merged, of_reference, outputs, isa=isa, threads=threads
        )
        return gradients[0], gradients[1], gradients[2]

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
        """Compute `deformable_attention` on arrays of any library.

        Raises:
            PluginError: The types or shapes do not fit, or the instructions are not supported.
        """
        self._run("fused", fused_call(value, shapes, merged, reference, out), isa, threads)

    def fused_backward(
        self,
        grad: DeviceArray,
        value: DeviceArray,
        shapes: Shapes,
        merged: DeviceArray,
        reference: DeviceArray,
        gradients: Sequence[DeviceArray | None],  # float32, as value, merged, reference; None: skip
        *,
        isa: Isa = Isa.AUTO,
        threads: int = 1,
    ) -> None:
        """Compute `deformable_attention_backward` on arrays of any library.

        Raises:
            PluginError: The types or shapes do not fit, or the instructions are not supported.
        """
        call = fused_grad_call(grad, value, shapes, merged, reference, gradients)
        self._run("fused_backward", call, isa, threads)

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
        """Compute `idol_plugins.reference.ms_deform_attn`, the weighted sum of bilinear samples.

        Raises:
            PluginError: The types or shapes do not fit, or the instructions are not supported.
        """
        arrays = _dense(value, np.asarray(locations, np.float32), np.asarray(weights, np.float32))
        out = np.empty((*weights.shape[:2], np.prod(value.shape[2:], dtype=int)), value.dtype)
        of_value, of_locations, of_weights = map(_describe, arrays)
        call = classic_call(of_value, shapes, of_locations, of_weights, _describe(out))
        self._run("classic", call, isa, threads)
        return out

    def _run(self, entry: str, call: ctypes.Structure, isa: Isa, threads: int) -> None:
        compute = getattr(self._library, f"idol_deform_attn_{entry}")
        check(compute(ctypes.byref(call), ctypes.byref(Options(isa, threads))))


def _dense(*arrays: Array) -> tuple[Array, ...]:
    return tuple(np.ascontiguousarray(array) for array in arrays)


def _describe(array: Array) -> DeviceArray:
    return DeviceArray(array.ctypes.data, array.shape, array.dtype.name)
