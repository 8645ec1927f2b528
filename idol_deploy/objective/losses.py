"""Losses of classes, boxes and masks, before the division by the number of matched queries (docs/idol.md §5.3).

Letters: L decoder layers, N images, Q queries, K classes, masks of h x w pixels. All losses are float32. They and their
gradients are finite for any finite logits.
"""

from torch import Tensor
from torch.nn import functional as F

from idol_deploy.objective.boxes import giou_loss, to_xyxy

__all__ = ["box_losses", "class_loss", "dice_loss", "focal_loss", "mask_focal_loss"]

_ALPHA = 0.25
_GAMMA = 2


def focal_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Compute the elementwise sigmoid focal loss (Lin et al. 2017) with alpha 0.25 and gamma 2.

    Args:
        logits: logits [...].
        targets: targets [...], 0 or 1.
    """
    logits, targets = logits.float(), targets.float()
    entropy = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    score = logits.sigmoid()
    missed = targets * (1 - score) + (1 - targets) * score
    weight = _ALPHA * targets + (1 - _ALPHA) * (1 - targets)
    return weight * entropy * missed**_GAMMA


def class_loss(
    logits: Tensor,  # [L, N, Q, K]
    labels: Tensor,  # [L, N, Q] int64
    matched: Tensor,  # [L, N, Q] bool
) -> Tensor:
    """Sum the focal loss over all queries and classes, [L]; an unmatched query has no class."""
    targets = F.one_hot(labels, logits.shape[-1]) * matched[..., None]
    return focal_loss(logits, targets).flatten(1).sum(1)


def box_losses(
    boxes: Tensor,  # [L, N, Q, 4] cxcywh
    targets: Tensor,  # [L, N, Q, 4] cxcywh
    matched: Tensor,  # [L, N, Q] bool
) -> tuple[Tensor, Tensor]:
    """Sum the L1 distance, [L], and 1 - GIoU, [L], over the matched queries."""
    boxes, targets = boxes.float(), targets.float()
    distance = (boxes - targets).abs().sum(-1)
    overlap = giou_loss(to_xyxy(boxes), to_xyxy(targets))
    counted = tuple(loss.where(matched, 0.0).flatten(1).sum(1) for loss in (distance, overlap))
    return counted[0], counted[1]


def mask_focal_loss(
    logits: Tensor,  # [..., h, w]
    targets: Tensor,  # [..., h, w]
) -> Tensor:
    """Average the focal loss over the pixels of each mask, [...]."""
    return focal_loss(logits, targets).mean((-2, -1))


def dice_loss(
    logits: Tensor,  # [..., h, w]
    targets: Tensor,  # [..., h, w]
) -> Tensor:
    """Compute 1 - (2 Σ p m + 1) / (Σ p + Σ m + 1) of each mask, [...], with probabilities p and targets m."""
    score, targets = logits.float().sigmoid(), targets.float()
    common = (score * targets).sum((-2, -1))
    total = score.sum((-2, -1)) + targets.sum((-2, -1))
    return 1 - (2 * common + 1) / (total + 1)
