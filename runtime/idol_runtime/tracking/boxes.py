"""Boxes and their overlap, and the array types of this package. Letters: n, m boxes."""

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

__all__ = ["Bools", "Floats", "Ints", "box_iou", "cxcywh_to_xyxy"]

Floats: TypeAlias = NDArray[np.float32]
Ints: TypeAlias = NDArray[np.int64]
Bools: TypeAlias = NDArray[np.bool_]


def cxcywh_to_xyxy(boxes: Floats) -> Floats:  # [n, 4] -> [n, 4]
    """Convert boxes from centre and size to two corners, in the same unit."""
    half = boxes[:, 2:] * np.float32(0.5)
    return np.concatenate([boxes[:, :2] - half, boxes[:, :2] + half], axis=1)


def box_iou(a: Floats, b: Floats) -> Floats:  # xyxy: [n, 4], [m, 4] -> [n, m]
    """Return the IoU of every pair of boxes; 0 if both are empty."""
    corner = np.maximum(a[:, None, :2], b[None, :, :2])
    overlap = np.minimum(a[:, None, 2:], b[None, :, 2:]) - corner
    intersection = np.maximum(overlap, 0).prod(axis=2)
    areas = [np.prod(boxes[:, 2:] - boxes[:, :2], axis=1) for boxes in (a, b)]
    union = areas[0][:, None] + areas[1][None, :] - intersection
    return np.asarray(np.divide(intersection, union, out=np.zeros_like(intersection), where=union > 0))
