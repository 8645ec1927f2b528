"""A bilinear resize, bit-identical to Pillow's and three times as fast: `csrc/idol_image.h` through ctypes."""

import ctypes
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from idol_plugins.errors import PluginError
from idol_plugins.libraries import find_library, load_library

__all__ = ["ABI", "ImageLibrary"]

ABI = 1
_BITS = 22  # fractional bits of a fixed-point weight
_STATUS = {1: "an array is missing", 2: "the sizes do not fit", 3: "out of memory"}


class _Axis(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_int64) for name in ("from_", "to", "taps")),
        *((name, ctypes.c_void_p) for name in ("first", "weights")),
    )


class _Weights(NamedTuple):
    first: NDArray[np.int32]  # [to]
    weights: NDArray[np.int32]  # [to, taps]


class ImageLibrary:
    """A loaded `libidol_image`.

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
        self.path = find_library("idol_image") if path is None else path
        self._library = load_library(self.path, "idol_image_abi", version=ABI)

    def resize(
        self,
        image: NDArray[np.uint8],  # [H, W, 3]
        size: tuple[int, int],
    ) -> NDArray[np.uint8]:  # [h, w, 3]
        """Resize to (h, w) pixels as `PIL.Image.resize` with the bilinear filter does.

        Raises:
            PluginError: The image has another type or shape, or a size is below 1.
        """
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or min(*image.shape, *size) < 1:
            raise PluginError(
                "expected an image [H, W, 3] of uint8 and a size of at least 1 x 1, got "
                f"{image.dtype} {image.shape} to {size}; convert the frame with numpy first"
            )
        image = np.ascontiguousarray(image)
        out = np.empty((*size, 3), np.uint8)
        axes = [_weights(before, after) for before, after in zip(image.shape[:2], size, strict=True)]
        rows, columns = (
            _Axis(before, after, axis.weights.shape[1], *(array.ctypes.data for array in axis))
            for before, after, axis in zip(image.shape[:2], size, axes, strict=True)
        )
        status = self._library.idol_image_resize(
            ctypes.c_void_p(image.ctypes.data),
            ctypes.byref(rows),
            ctypes.byref(columns),
            ctypes.c_void_p(out.ctypes.data),
        )
        if status:
            raise PluginError(
                f"cannot resize {image.shape} to {size}: {_STATUS.get(status, status)}; use a smaller image"
            )
        return out


@lru_cache(maxsize=32)
def _weights(before: int, after: int) -> _Weights:
    """Return the weights of one axis: a triangle over the pixels that an output pixel covers, at least two.

    Computed in float64, then rounded to fixed point.
    """
    scale = before / after
    support = max(scale, 1.0)
    centre = (np.arange(after) + 0.5) * scale
    first = np.maximum((centre - support + 0.5).astype(np.int64), 0)
    end = np.minimum((centre + support + 0.5).astype(np.int64), before)
    taps = int((end - first).max())
    start = np.minimum(first, before - taps)  # every output pixel has `taps` inputs; some weights are 0
    weights = np.zeros((after, taps))
    total = np.zeros(after)
    inverse = 1.0 / support
    for tap in range(taps):  # the order of the sums matters for bit-identical results
        pixel = start + tap
        distance = np.abs((pixel - centre + 0.5) * inverse)
        weights[:, tap] = np.where((pixel >= first) & (pixel < end) & (distance < 1), 1 - distance, 0.0)
        total += weights[:, tap]
    weights = np.where(total[:, None] != 0, weights / np.where(total, total, 1.0)[:, None], weights)
    fixed = (0.5 + weights * (1 << _BITS)).astype(np.int32)
    return _Weights(start.astype(np.int32), fixed)
