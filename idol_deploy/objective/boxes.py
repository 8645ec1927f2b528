"""Boxes as tensors: from centre form to corners, and how much they overlap.

Letters: N images, n and m boxes. Any unit will do, as long as it is the same for both sides.
"""

import torch
from torch import Tensor

__all__ = ["giou_loss", "pairwise_iou", "to_cxcywh", "to_xyxy"]

_EPS = 1e-7  # in GIoU's divisions, as published


def to_xyxy(boxes: Tensor) -> Tensor:
    """Corners [..., 4] of cxcywh boxes [..., 4]."""
    centre, half = boxes[..., :2], 0.5 * boxes[..., 2:]
    return torch.cat((centre - half, centre + half), -1)


def to_cxcywh(boxes: Tensor) -> Tensor:
    """Centres and sides [..., 4] of xyxy boxes [..., 4]."""
    low, high = boxes[..., :2], boxes[..., 2:]
    return torch.cat(((low + high) / 2, high - low), -1)


def pairwise_iou(
    a: Tensor,  # [N, n, 4] xyxy
    b: Tensor,  # [N, m, 4] xyxy
) -> tuple[Tensor, Tensor]:
    """IoU and generalised IoU (Rezatofighi et al. 2019) of every pair of boxes of one image.

    Returns:
        IoU [N, n, m], 0 where both boxes are empty, and GIoU [N, n, m].
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
    """1 - GIoU [...] of boxes one by one; finite, with its gradient, for empty boxes too."""
    inter = _area(torch.maximum(a[..., :2], b[..., :2]), torch.minimum(a[..., 2:], b[..., 2:]), clamp=True)
    union = _area(a[..., :2], a[..., 2:]) + _area(b[..., :2], b[..., 2:]) - inter
    hull = _area(torch.minimum(a[..., :2], b[..., :2]), torch.maximum(a[..., 2:], b[..., 2:]))
    return 1 - (inter / (union + _EPS) - (hull - union) / (hull + _EPS))


def _area(low: Tensor, high: Tensor, *, clamp: bool = False) -> Tensor:
    sides = high - low
    if clamp:
        sides = sides.clamp(min=0)
    return sides[..., 0] * sides[..., 1]
