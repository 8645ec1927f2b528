"""The kernel on a CUDA device, called with device pointers: `csrc/idol_deform_attn_cuda.h` through ctypes."""

import ctypes
from dataclasses import dataclass
from pathlib import Path

from idol_plugins.abi import ClassicCall, FusedCall, check, make_cells, make_sizes, type_code
from idol_plugins.errors import PluginError
from idol_plugins.libraries import find_library
from idol_plugins.reference import Shapes

__all__ = ["CudaLibrary", "DeviceArray"]

_CUDA_ERROR = 1000  # IDOL_CUDA_ERROR
_ENTRIES = ("idol_deform_attn_cuda_fused", "idol_deform_attn_cuda_classic")


@dataclass(frozen=True)
class DeviceArray:
    """A dense array on the device.

    Attributes:
        pointer: its address, a multiple of 16.
        shape: of the array.
        dtype: numpy's name of its type.
    """

    pointer: int
    shape: tuple[int, ...]
    dtype: str


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
            self._fused, self._classic = (library[name] for name in _ENTRIES)
        except (OSError, AttributeError) as error:
            raise PluginError(f"{path} cannot be loaded ({error}); build it again for this device") from error
        for entry in (self._fused, self._classic):
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
        N, _, M, D = value.shape
        Q, L = merged.shape[1], len(shapes)
        P = merged.shape[2] // max(1, 3 * M * L)
        if (merged.shape, out.shape) != ((N, Q, 3 * M * L * P), (N, Q, M * D)) or out.dtype != value.dtype:
            check(3)
        if reference.shape[1:3] != (Q, L) or reference.dtype != "float32":
            check(3)
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
            out=out.pointer,
        )
        _check(self._fused(ctypes.byref(call), stream))

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
