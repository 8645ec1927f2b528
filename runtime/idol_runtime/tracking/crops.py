"""Masks stored as crops: the pixels inside a box only, which for ten instances is about a tenth of ten full masks.

n: masks; H, W: height and width of the frame in pixels; h, w: height and width of a box.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from idol_runtime.tracking.boxes import Bools

__all__ = ["MaskCrop", "crop_masks", "paste_masks"]


@dataclass(frozen=True, eq=False)
class MaskCrop:
    """One mask of a frame, stored as a box that contains all its pixels.

    Attributes:
        top: first row of the box in the frame.
        left: first column of the box in the frame.
        pixels: [h, w] mask inside the box; h or w is 0 for an empty mask.
    """

    top: int
    left: int
    pixels: Bools

    def place(self) -> tuple[slice, slice]:
        """Return the rows and columns of the frame that the box covers."""
        height, width = self.pixels.shape
        return slice(self.top, self.top + height), slice(self.left, self.left + width)


def crop_masks(masks: Bools) -> tuple[MaskCrop, ...]:  # [n, H, W]
    """Crop each mask to the smallest box that contains it; the pixels are views."""
    crops = []
    for mask in masks:
        rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
        top, bottom = (int(rows[0]), int(rows[-1]) + 1) if len(rows) else (0, 0)
        left, right = (int(columns[0]), int(columns[-1]) + 1) if len(columns) else (0, 0)
        crops.append(MaskCrop(top, left, mask[top:bottom, left:right]))
    return tuple(crops)


def paste_masks(crops: Sequence[MaskCrop], size: tuple[int, int]) -> Bools:  # [n, H, W]
    """Paste crops into full masks of a frame of the given size (H, W)."""
    masks = np.zeros((len(crops), *size), np.bool_)
    for mask, crop in zip(masks, crops, strict=True):
        mask[crop.place()] = crop.pixels
    return masks
