"""Pillow's bilinear resize to the last bit, in a third of its time: `csrc/idol_image.h` through ctypes."""

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
LIBRARY = "idol_image"
_BITS = 22  # behind the point of a weight
_STATUS = {1: "an array is missing", 2: "sizes do not fit", 3: "out of memory"}


class _Axis(ctypes.Structure):
    _fields_ = (
        ("from_", ctypes.c_int64),
        ("to", ctypes.c_int64),
        ("taps", ctypes.c_int64),
        ("first", ctypes.c_void_p),
        ("weights", ctypes.c_void_p),
    )


class _Weights(NamedTuple):
    first: NDArray[np.int32]  # [to]
    weights: NDArray[np.int32]  # [to, taps]


class ImageLibrary:
    """A loaded `libidol_image`."""

    def __init__(self, path: Path | None = None) -> None:
        """Load the library.

        Args:
            path: of the file; None: where `find_library` finds it.

        Raises:
            PluginError: it is not built, cannot be loaded, or is of another version.
        """
        self.path = find_library(LIBRARY) if path is None else path
        self._library = load_library(self.path, "idol_image_abi", ABI)

    def resize(
        self,
        image: NDArray[np.uint8],  # [H, W, 3]
        size: tuple[int, int],
    ) -> NDArray[np.uint8]:  # [h, w, 3]
        """To (h, w) pixels, as `PIL.Image.resize` with its bilinear filter does.

        Raises:
            PluginError: it is no such image, or a size is below 1.
        """
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or min(*image.shape, *size) < 1:
            raise PluginError(
                f"only images [H, W, 3] of uint8 are resized, got {image.dtype} {image.shape} to {size}"
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
            raise PluginError(f"cannot resize {image.shape} to {size}: {_STATUS.get(status, status)}")
        return out


@lru_cache(maxsize=32)
def _weights(before: int, after: int) -> _Weights:
    """Of a triangle over as many pixels as one of the result covers, at least two, in float64 and then rounded."""
    scale = before / after
    support = max(scale, 1.0)
    centre = (np.arange(after) + 0.5) * scale
    first = np.maximum((centre - support + 0.5).astype(np.int64), 0)
    end = np.minimum((centre + support + 0.5).astype(np.int64), before)
    taps = int((end - first).max())
    start = np.minimum(first, before - taps)  # all have as many pixels, some of them of weight 0
    weights = np.zeros((after, taps))
    total = np.zeros(after)
    inverse = 1.0 / support
    for tap in range(taps):  # sums are in this order
        pixel = start + tap
        distance = np.abs((pixel - centre + 0.5) * inverse)
        weights[:, tap] = np.where((pixel >= first) & (pixel < end) & (distance < 1), 1 - distance, 0.0)
        total += weights[:, tap]
    weights = np.where(total[:, None] != 0, weights / np.where(total, total, 1.0)[:, None], weights)
    fixed = (0.5 + weights * (1 << _BITS)).astype(np.int32)
    return _Weights(start.astype(np.int32), fixed)
