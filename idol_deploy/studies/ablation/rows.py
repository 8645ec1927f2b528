"""The rows of the paper's Table 1, and the trainings that serve them. Imports no torch."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

__all__ = ["ROWS", "TRAININGS", "WITHOUT_TWS", "Row"]

# What differs from the preset's loss, by the name of a training.
TRAININGS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "id_head": ("loss.embedding=id_head",),
        "iou": ("loss.embedding=contrastive", "loss.selection=iou"),
        "transport": ("loss.embedding=contrastive", "loss.selection=transport"),
    }
)

# One running embedding per track, and no weight for how often it was seen.
WITHOUT_TWS = ("association.temporal=momentum", "association.frame_weight=false")
_CUES = (*WITHOUT_TWS, "association.matching=multi_cue")
_EMBEDDINGS = (*WITHOUT_TWS, "association.matching=embedding")
_TEMPORAL = (
    "association.temporal=published",
    "association.frame_weight=true",
    "association.matching=embedding",
)


@dataclass(frozen=True)
class Row:
    """A row of the table.

    Attributes:
        name: of its files.
        title: what a reader sees.
        training: key of `TRAININGS`.
        association: how its network's detections become tracks, as `--set` takes it.
    """

    name: str
    title: str
    training: str
    association: tuple[str, ...]


ROWS = (
    Row("id_head_cues", "ID head, multi-cues", "id_head", _CUES),
    Row("contrast_cues", "contrastive, multi-cues", "iou", _CUES),
    Row("contrast", "contrastive, embeddings", "iou", _EMBEDDINGS),
    Row("transport", "+ optimal transport", "transport", _EMBEDDINGS),
    Row("temporal", "+ temporal", "transport", _TEMPORAL),
)
