"""The kernel on a CUDA device, called with device pointers: `csrc/idol_deform_attn_cuda.h` through ctypes."""

import ctypes
from collections.abc import Sequence
from enum import IntEnum
from pathlib import Path

from idol_plugins.abi import DeviceArray, check, classic_call, fused_call, fused_grad_call
from idol_plugins.errors import PluginError
from idol_plugins.libraries import BUILD, find_library, load_library
from idol_plugins.reference import Shapes

__all__ = ["CudaLibrary", "CudaVariant", "DeviceArray"]

_CUDA_ERROR = 1000  # IDOL_CUDA_ERROR
_ENTRIES = tuple(f"idol_deform_attn_cuda_{name}" for name in ("fused_as", "classic_as", "fused_backward"))


class CudaVariant(IntEnum):
    """Kernels for heads of 32 channels, `idol_cuda_variant`; only benchmarks and tests choose one."""

    AUTO = 0
    GROUP = 1
    CHANNEL = 2
    WARP = 3
    AHEAD = 4
    AHEAD_2 = 5
    PAIR = 6
    LARGE_BLOCK = 7


class CudaLibrary:
    """A loaded `libidol_deform_attn_cuda`; all methods are asynchronous in a CUDA stream."""

    def __init__(self, path: Path | None = None, variant: CudaVariant = CudaVariant.AUTO) -> None:
        """Load the library.

        Args:
            path: Path of the library; None: the result of `find_library`.
            variant: Kernel of the forward calls.

        Raises:
            PluginError: The library is not built or cannot be loaded.
        """
        path = find_library("idol_deform_attn_cuda", build=f"{BUILD} --cuda") if path is None else path
        library = load_library(path, *_ENTRIES, build=f"{BUILD} --cuda")
        self._fused, self._classic, self._backward = (library[name] for name in _ENTRIES)
        for entry in (self._fused, self._classic):
            entry.argtypes = (ctypes.c_void_p, ctypes.c_int32, ctypes.c_void_p)
        self._backward.argtypes = (ctypes.c_void_p, ctypes.c_void_p)
        self._variant = variant

    def deformable_attention(
        self,
        value: DeviceArray,  # [N, S, M, D]
        shapes: Shapes,
        merged: DeviceArray,  # [N, Q, M * L * P * 3]
        reference: DeviceArray,  # [N or 1, Q, L, 2 or 4] float32
        out: DeviceArray,  # [N, Q, M * D] of value's type
        stream: int = 0,
    ) -> None:
        """Queue `idol_plugins.reference.deformable_attention` in the stream.

        Raises:
            PluginError: The types or shapes do not fit, or the launch fails.
        """
        call = fused_call(value, shapes, merged, reference, out)
        _check(self._fused(ctypes.byref(call), self._variant, stream))

    def deformable_attention_backward(
        self,
        grad: DeviceArray,  # [N, Q, M * D] of value's type: gradient of `out`
        value: DeviceArray,
        shapes: Shapes,
        merged: DeviceArray,
        reference: DeviceArray,
        gradients: Sequence[DeviceArray | None],  # float32, as value, merged, reference; None: skip
        stream: int = 0,
    ) -> None:
        """Queue the computation of the gradients in the stream; each output is overwritten completely.

        The order of the sums is not fixed, so the last bits may differ between calls.

        Raises:
            PluginError: The types or shapes do not fit, or the launch fails.
        """
        call = fused_grad_call(grad, value, shapes, merged, reference, gradients)
        _check(self._backward(ctypes.byref(call), stream))

    def ms_deform_attn(
        self,
        value: DeviceArray,  # [N, S, M, D]
        shapes: Shapes,
        locations: DeviceArray,  # [N, Q, M, L, P, 2] float32 x, y; 0 and 1 are the outer edges of the border cells
        weights: DeviceArray,  # [N, Q, M, L, P] float32
        out: DeviceArray,  # [N, Q, M * D] of value's type
        stream: int = 0,
    ) -> None:
        """Queue `idol_plugins.reference.ms_deform_attn` in the stream.

        Raises:
            PluginError: The types or shapes do not fit, or the launch fails.
        """
        call = classic_call(value, shapes, locations, weights, out)
        _check(self._classic(ctypes.byref(call), self._variant, stream))


def _check(status: int) -> None:
    if status >= _CUDA_ERROR:
        raise PluginError(
            f"the CUDA device failed to launch the kernel: error {status - _CUDA_ERROR}; "
            f"build the library for this device: {BUILD} --cuda"
        )
    check(status)
