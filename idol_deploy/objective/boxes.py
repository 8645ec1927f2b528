"""Conversions and overlaps of boxes.

Letters: N images, n and m boxes. Both sides of an overlap must have the same unit.
"""

import torch
from torch import Tensor

__all__ = ["giou_loss", "pairwise_iou", "to_cxcywh", "to_xyxy"]

_EPS = 1e-7  # in the divisions of GIoU, as published


def to_xyxy(boxes: Tensor) -> Tensor:
    """Convert cxcywh boxes [..., 4] to corners."""
    centre, half = boxes[..., :2], 0.5 * boxes[..., 2:]
    return torch.cat((centre - half, centre + half), -1)


def to_cxcywh(boxes: Tensor) -> Tensor:
    """Convert xyxy boxes [..., 4] to centres and sides."""
    low, high = boxes[..., :2], boxes[..., 2:]
    return torch.cat(((low + high) / 2, high - low), -1)


def pairwise_iou(
    a: Tensor,  # [N, n, 4] xyxy
    b: Tensor,  # [N, m, 4] xyxy
) -> tuple[Tensor, Tensor]:
    """Compute IoU and generalised IoU (Rezatofighi et al. 2019) of all pairs of boxes of each image.

    Returns:
        IoU [N, n, m], 0 if both boxes are empty, and GIoU [N, n, m].
    """
    a, b = a[:, :, None], b[:, None]
    inter = _area(torch.maximum(a[..., :2], b[..., :2]), torch.minimum(a[..., 2:], b[..., 2:]), clamp=True)
    union = _area(a[..., :2], a[..., 2:]) + _area(b[..., :2], b[..., 2:]) - inter
    iou = inter / union.clamp(min=torch.finfo(union.dtype).tiny)
    hull = _area(torch.minimum(a[..., :2], b[..., :2]), torch.maximum(a[..., 2:], b[..., 2:]), clamp=True)
    return iou, iou - (hull - union) / (hull + _EPS)


def giou_loss(
    a: Tensor,  # [..., 4] xyxy
    b: Tensor,  # [..., 4] xyxy
) -> Tensor:
    """Compute 1 - GIoU [...] of corresponding boxes; it and its gradient are finite for empty boxes too."""
    inter = _area(torch.maximum(a[..., :2], b[..., :2]), torch.minimum(a[..., 2:], b[..., 2:]), clamp=True)
    union = _area(a[..., :2], a[..., 2:]) + _area(b[..., :2], b[..., 2:]) - inter
    hull = _area(torch.minimum(a[..., :2], b[..., :2]), torch.maximum(a[..., 2:], b[..., 2:]))
    return 1 - (inter / (union + _EPS) - (hull - union) / (hull + _EPS))


def _area(low: Tensor, high: Tensor, *, clamp: bool = False) -> Tensor:
    sides = high - low
    if clamp:
        sides = sides.clamp(min=0)
    return sides[..., 0] * sides[..., 1]
