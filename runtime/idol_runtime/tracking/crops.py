"""Masks inside their boxes: a frame of ten instances holds a tenth of the pixels that ten whole masks do.

n: masks; H, W: height and width of the frame in pixels; h, w: of a box.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["MaskCrop", "crop_masks", "paste_masks"]


@dataclass(frozen=True, eq=False)
class MaskCrop:
    """One mask of a frame, of which only a box that holds all its pixels is kept.

    Attributes:
        top: first row of the box in the frame.
        left: first column.
        pixels: [h, w] bool; either side is 0 where the mask is empty.
    """

    top: int
    left: int
    pixels: NDArray[np.bool_]

    def place(self) -> tuple[slice, slice]:
        """Rows and columns of the frame that the box covers."""
        height, width = self.pixels.shape
        return slice(self.top, self.top + height), slice(self.left, self.left + width)


def crop_masks(
    masks: NDArray[np.bool_],  # [n, H, W]
) -> tuple[MaskCrop, ...]:
    """Each mask in the smallest box that holds it; the pixels are views."""
    crops = []
    for mask in masks:
        rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
        top, bottom = (int(rows[0]), int(rows[-1]) + 1) if len(rows) else (0, 0)
        left, right = (int(columns[0]), int(columns[-1]) + 1) if len(columns) else (0, 0)
        crops.append(MaskCrop(top, left, mask[top:bottom, left:right]))
    return tuple(crops)


def paste_masks(crops: Sequence[MaskCrop], size: tuple[int, int]) -> NDArray[np.bool_]:
    """Whole masks [n, H, W] of a frame of this size (H, W)."""
    masks = np.zeros((len(crops), *size), np.bool_)
    for mask, crop in zip(masks, crops, strict=True):
        mask[crop.place()] = crop.pixels
    return masks
