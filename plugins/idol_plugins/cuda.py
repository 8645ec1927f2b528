"""The kernel on a CUDA device, called with device pointers: `csrc/idol_deform_attn_cuda.h` through ctypes."""

import ctypes
from collections.abc import Sequence
from pathlib import Path

from idol_plugins.abi import (
    ClassicCall,
    DeviceArray,
    check,
    fused_call,
    fused_grad_call,
    make_cells,
    make_sizes,
    type_code,
)
from idol_plugins.errors import PluginError
from idol_plugins.libraries import find_library
from idol_plugins.reference import Shapes

__all__ = ["CudaLibrary", "DeviceArray"]

_CUDA_ERROR = 1000  # IDOL_CUDA_ERROR
_ENTRIES = tuple(f"idol_deform_attn_cuda_{name}" for name in ("fused", "classic", "fused_backward"))


class CudaLibrary:
    """A loaded `libidol_deform_attn_cuda`."""

    def __init__(self, path: Path | None = None) -> None:
        """Load the library.

        Args:
            path: of the file; None: where `find_library` finds it.

        Raises:
            PluginError: it is not built, or cannot be loaded.
        """
        path = find_library("idol_deform_attn_cuda") if path is None else path
        try:
            library = ctypes.CDLL(str(path))
            self._fused, self._classic, self._backward = (library[name] for name in _ENTRIES)
        except (OSError, AttributeError) as error:
            raise PluginError(f"{path} cannot be loaded ({error}); build it again for this device") from error
        for entry in (self._fused, self._classic, self._backward):
            entry.argtypes = (ctypes.c_void_p, ctypes.c_void_p)

    def deformable_attention(
        self,
        value: DeviceArray,  # [N, S, M, D]
        shapes: Shapes,
        merged: DeviceArray,  # [N, Q, M * L * P * 3]
        reference: DeviceArray,  # [N or 1, Q, L, 2 or 4] float32
        out: DeviceArray,  # [N, Q, M * D] of value's type
        stream: int = 0,
    ) -> None:
        """Puts `idol_plugins.reference.deformable_attention` into the stream; does not wait for it.

        Raises:
            PluginError: types or shapes do not fit, or the device refuses the launch.
        """
        call, _held = fused_call(value, shapes, merged, reference, out)
        _check(self._fused(ctypes.byref(call), stream))

    def deformable_attention_backward(
        self,
        grad: DeviceArray,  # [N, Q, M * D] of value's type: the gradient of `out`
        value: DeviceArray,
        shapes: Shapes,
        merged: DeviceArray,
        reference: DeviceArray,
        wanted: Sequence[DeviceArray | None],  # of value, merged, reference: float32; None is not wanted
        stream: int = 0,
    ) -> None:
        """Puts the gradients into the stream, each written from end to end.

        Sums come in no certain order: the last bits may differ from one call to the next.

        Raises:
            PluginError: types or shapes do not fit, or the device refuses the launch.
        """
        call, _held = fused_grad_call(grad, value, shapes, merged, reference, wanted)
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
        """Puts `idol_plugins.reference.ms_deform_attn` into the stream; does not wait for it.

        Raises:
            PluginError: types or shapes do not fit, or the device refuses the launch.
        """
        N, _, M, D = value.shape
        Q, L, P = weights.shape[1], len(shapes), weights.shape[-1]
        expected = (N, Q, M, L, P), (N, Q, M, L, P, 2), (N, Q, M * D)
        if (weights.shape, locations.shape, out.shape) != expected:
            check(3)
        if (weights.dtype, locations.dtype, out.dtype) != ("float32", "float32", value.dtype):
            check(2)
        cells = make_cells(shapes)
        call = ClassicCall(
            sizes=make_sizes(value.shape, Q, L, P, cells),
            type=type_code(value.dtype),
            value=value.pointer,
            locations=locations.pointer,
            weights=weights.pointer,
            out=out.pointer,
        )
        _check(self._classic(ctypes.byref(call), stream))


def _check(status: int) -> None:
    if status >= _CUDA_ERROR:
        raise PluginError(
            f"the CUDA device refuses the launch with error {status - _CUDA_ERROR}; is the library built for it?"
        )
    check(status)
