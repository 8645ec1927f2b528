"""Losses of classes, boxes and masks, not yet divided by the number of matched queries (docs/idol.md §5.3).

Letters: L decoder layers, N images, Q queries, K classes, n masks of h x w pixels. All are float32, whatever the
inputs, and finite with finite gradients for any finite logits.
"""

from torch import Tensor
from torch.nn import functional as F

from idol_deploy.objective.boxes import giou_loss, to_xyxy

__all__ = ["box_losses", "class_loss", "dice_loss", "focal_loss", "mask_focal_loss"]

_ALPHA = 0.25
_GAMMA = 2


def focal_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Sigmoid focal loss (Lin et al. 2017), alpha 0.25 and gamma 2, element by element.

    Args:
        logits: [...].
        targets: [...], 0 or 1.
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
    """Sum [L] of the focal loss over all queries and classes; a query that is not matched is of no class."""
    targets = F.one_hot(labels, logits.shape[-1]) * matched[..., None]
    return focal_loss(logits, targets).flatten(1).sum(1)


def box_losses(
    boxes: Tensor,  # [L, N, Q, 4] cxcywh
    targets: Tensor,  # [L, N, Q, 4] cxcywh
    matched: Tensor,  # [L, N, Q] bool
) -> tuple[Tensor, Tensor]:
    """Sums over matched queries of the L1 distance, [L], and of 1 - GIoU, [L]."""
    boxes, targets = boxes.float(), targets.float()
    distance = (boxes - targets).abs().sum(-1)
    overlap = giou_loss(to_xyxy(boxes), to_xyxy(targets))
    counted = tuple(loss.where(matched, 0.0).flatten(1).sum(1) for loss in (distance, overlap))
    return counted[0], counted[1]


def mask_focal_loss(
    logits: Tensor,  # [..., h, w]
    targets: Tensor,  # [..., h, w]
) -> Tensor:
    """Mean [...] of the focal loss over each mask's pixels."""
    return focal_loss(logits, targets).mean((-2, -1))


def dice_loss(
    logits: Tensor,  # [..., h, w]
    targets: Tensor,  # [..., h, w]
) -> Tensor:
    """1 - (2 Σ p m + 1) / (Σ p + Σ m + 1) of each mask, [...]; p are probabilities, m the targets."""
    score, targets = logits.float().sigmoid(), targets.float()
    common = (score * targets).sum((-2, -1))
    total = score.sum((-2, -1)) + targets.sum((-2, -1))
    return 1 - (2 * common + 1) / (total + 1)
