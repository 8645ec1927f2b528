"""Boxes: from centre form to corners, and how much they overlap. Letters: n, m boxes."""

import numpy as np
from numpy.typing import NDArray

__all__ = ["box_iou", "cxcywh_to_xyxy"]


def cxcywh_to_xyxy(
    boxes: NDArray[np.float32],  # [n, 4]
) -> NDArray[np.float32]:  # [n, 4]
    """Centre and size to two corners, in whatever unit they are given."""
    half = boxes[:, 2:] * np.float32(0.5)
    return np.concatenate([boxes[:, :2] - half, boxes[:, :2] + half], axis=1)


def box_iou(
    a: NDArray[np.float32],  # [n, 4] xyxy
    b: NDArray[np.float32],  # [m, 4] xyxy
) -> NDArray[np.float32]:  # [n, m]
    """IoU of every pair of boxes; 0 where both are empty."""
    corner = np.maximum(a[:, None, :2], b[None, :, :2])
    overlap = np.minimum(a[:, None, 2:], b[None, :, 2:]) - corner
    intersection = np.maximum(overlap, 0).prod(axis=2)
    areas = [np.prod(boxes[:, 2:] - boxes[:, :2], axis=1) for boxes in (a, b)]
    union = areas[0][:, None] + areas[1][None, :] - intersection
    iou: NDArray[np.float32] = np.divide(
        intersection, union, out=np.zeros_like(intersection), where=union > 0
    )
    return iou
