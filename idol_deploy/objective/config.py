"""Settings of the training losses (docs/idol.md §5.3, §5.4). Imports no torch."""

from dataclasses import dataclass, fields
from typing import Literal

from idol_runtime.errors import ConfigError

__all__ = ["LossConfig"]


@dataclass(frozen=True)
class LossConfig:
    """Weights of the losses, and the training of the embedding.

    Attributes:
        ce_weight: weight of the class loss (sigmoid focal loss).
        bbox_weight: weight of the L1 distance of cxcywh boxes.
        giou_weight: weight of 1 - GIoU.
        mask_weight: weight of the masks' focal loss.
        dice_weight: weight of the masks' dice loss.
        reid_weight: weight of the contrastive loss, or of the identity head's cross-entropy.
        reid_aux_weight: weight of the auxiliary cosine loss.
        deep_supervision: compute class, box and mask losses for every decoder layer instead of the last only.
        embedding: `contrastive`, or `id_head`: the paper's baseline, a classifier over training identities.
        selection: choice of positives and negatives: `transport` (simOTA) or `iou` (thresholds).
        iou_positive: IoU above which a query is a positive of an instance, for `selection` `iou`.
        iou_negative: IoU below which a query is a negative of an instance, for `selection` `iou`.
        global_normaliser: divide losses by the matches of all processes and accumulated batches, which equals one
            process with the whole batch; as published, each divides by its own.
        masks_at_once: number of masks of a batch that are decoded together. If there are more, all are decoded a second
            time for the gradient. A higher value needs more memory and less time; losses do not change.
    """

    ce_weight: float = 2.0
    bbox_weight: float = 5.0
    giou_weight: float = 2.0
    mask_weight: float = 2.0
    dice_weight: float = 5.0
    reid_weight: float = 2.0
    reid_aux_weight: float = 3.0
    deep_supervision: bool = True
    embedding: Literal["contrastive", "id_head"] = "contrastive"
    selection: Literal["transport", "iou"] = "transport"
    iou_positive: float = 0.7
    iou_negative: float = 0.3
    global_normaliser: bool = False
    masks_at_once: int = 128

    def __post_init__(self) -> None:
        for name in (field.name for field in fields(self) if field.name.endswith("_weight")):
            if not 0.0 <= getattr(self, name) < float("inf"):
                raise ConfigError(f"{name} must be finite and not negative, got {getattr(self, name)}")
        if self.embedding not in ("contrastive", "id_head"):
            raise ConfigError(f"embedding must be 'contrastive' or 'id_head', got {self.embedding!r}")
        if self.selection not in ("transport", "iou"):
            raise ConfigError(f"selection must be 'transport' or 'iou', got {self.selection!r}")
        if not 0.0 <= self.iou_negative <= self.iou_positive < 1.0:
            raise ConfigError(
                "IoU thresholds must satisfy 0 <= iou_negative <= iou_positive < 1, got "
                f"{self.iou_negative} and {self.iou_positive}"
            )
        if self.masks_at_once < 1:
            raise ConfigError(f"masks_at_once must be positive, got {self.masks_at_once}")
