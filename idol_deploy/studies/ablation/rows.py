"""Rows of the paper's Table 1 and the trainings that they need; imports no torch."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

__all__ = ["ROWS", "TRAININGS", "WITHOUT_TWS", "AblationRow"]

# Changes of the preset's loss, by name of the training.
TRAININGS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "id_head": ("loss.embedding=id_head",),
        "iou": ("loss.embedding=contrastive", "loss.selection=iou"),
        "transport": ("loss.embedding=contrastive", "loss.selection=transport"),
    }
)

# Without temporally weighted softmax: one running embedding per track, not weighted by the number of its frames.
WITHOUT_TWS = ("association.temporal=momentum", "association.frame_weight=false")
_CUES = (*WITHOUT_TWS, "association.matching=multi_cue")
_EMBEDDINGS = (*WITHOUT_TWS, "association.matching=embedding")
_TEMPORAL = (
    "association.temporal=published",
    "association.frame_weight=true",
    "association.matching=embedding",
)


@dataclass(frozen=True)
class AblationRow:
    """A row of the table.

    Attributes:
        name: name of its files.
        title: title in the table.
        training: key of `TRAININGS`.
        association: association settings, in the form of `--set`.
    """

    name: str
    title: str
    training: str
    association: tuple[str, ...]


ROWS = (
    AblationRow("id_head_cues", "ID head, multi-cues", "id_head", _CUES),
    AblationRow("contrast_cues", "contrastive, multi-cues", "iou", _CUES),
    AblationRow("contrast", "contrastive, embeddings", "iou", _EMBEDDINGS),
    AblationRow("transport", "+ optimal transport", "transport", _EMBEDDINGS),
    AblationRow("temporal", "+ temporal", "transport", _TEMPORAL),
)
