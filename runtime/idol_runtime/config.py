"""Typed settings that the runtime obeys and a bundle's manifest carries.

The defaults are those of the published `ytvis19_r50` configuration (docs/idol.md §1, §4).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args, get_type_hints

from idol_runtime.errors import ConfigError

__all__ = ["AssociationConfig", "Category", "Preprocessing", "StreamConfig", "VideoConfig", "override_stream"]

# Every track has room for so many embeddings from its first frame on.
_MOST_REMEMBERED = 1000


def _require_share(owner: str, **values: float) -> None:
    for name, value in values.items():
        if not 0.0 <= value <= 1.0:
            raise ConfigError(f"{owner}.{name} must lie between 0 and 1, got {value}")


def _require_choice(owner: str, settings: object, *names: str) -> None:
    hints = get_type_hints(type(settings))
    for name in names:
        choices, value = get_args(hints[name]), getattr(settings, name)
        if value not in choices:
            raise ConfigError(f"{owner}.{name} must be one of {', '.join(choices)}, got {value!r}")


@dataclass(frozen=True)
class AssociationConfig:
    """How the queries of one frame become detections, and detections tracks (docs/idol.md §4).

    Attributes:
        select_score: a query becomes a candidate when its best class score is above this.
        box_nms_iou: class-wise box NMS suppresses above this IoU.
        mask_nms_iou: class-agnostic mask NMS suppresses above this IoU (0.3 in the OVIS presets).
        init_score: score above which a detection starts a track when no track exists.
        new_track_score: score above which an unmatched detection starts a track (0.3 for OVIS).
        match_score: a match needs a (weighted) bi-softmax above this; with `iou`, an IoU.
        matching: `embedding`, IDOL's bi-softmax; `multi_cue`, MaskTrack R-CNN's
            log p + log s + 2 IoU + 10 [same class], the baseline that the paper compares with; or `iou`, of the box
            with that where a track of the same class was last seen, which needs no embeddings.
        temporal: what stands for a track: `published` weighs its last embeddings by score + t/n (t = n the
            newest), `paper` by tau + T/t (t = 1 the newest), `score` by the score alone, and `momentum`
            keeps one running embedding instead.
        frame_weight: on rows with several candidates, weigh by how often each track was seen.
        memory_length: embeddings kept per track, 1000 at most; the paper's T.
        tau: the paper's constant in its temporal weight.
        momentum: share of the new embedding in the running one.
        max_age: a track unseen for this many frames is forgotten, and its id never returns.
    """

    select_score: float = 0.1
    box_nms_iou: float = 0.9
    mask_nms_iou: float = 0.5
    init_score: float = 0.2
    new_track_score: float = 0.2
    match_score: float = 0.5
    matching: Literal["embedding", "multi_cue", "iou"] = "embedding"
    temporal: Literal["published", "paper", "score", "momentum"] = "published"
    frame_weight: bool = True
    memory_length: int = 3
    tau: float = 0.5
    momentum: float = 0.8
    max_age: int = 10

    def __post_init__(self) -> None:
        _require_share(
            "association",
            select_score=self.select_score,
            box_nms_iou=self.box_nms_iou,
            mask_nms_iou=self.mask_nms_iou,
            init_score=self.init_score,
            new_track_score=self.new_track_score,
            match_score=self.match_score,
            momentum=self.momentum,
        )
        if not 1 <= self.memory_length <= _MOST_REMEMBERED:
            raise ConfigError(
                f"association.memory_length must lie between 1 and {_MOST_REMEMBERED}, got {self.memory_length}"
            )
        if self.max_age < 1:
            raise ConfigError(f"association.max_age must be at least 1, got {self.max_age}")
        if not 0 <= self.tau < math.inf:
            raise ConfigError(f"association.tau must not be negative, got {self.tau}")
        _require_choice("association", self, "matching", "temporal")


@dataclass(frozen=True)
class VideoConfig:
    """How the frames of a track become a video's results (docs/idol.md §4, "Video result").

    Attributes:
        class_score: with `multi_class`, every class whose score over the track is above this is a result.
        multi_class: one result per such class; False: one per track, its best class.
        temporal_score: `mean` or `max` of the class scores over the frames where the track was seen.
    """

    class_score: float = 0.05
    multi_class: bool = True
    temporal_score: Literal["mean", "max"] = "mean"

    def __post_init__(self) -> None:
        _require_share("video", class_score=self.class_score)
        _require_choice("video", self, "temporal_score")


@dataclass(frozen=True)
class Preprocessing:
    """From a source frame to the network's input (docs/idol.md §2).

    Attributes:
        short_side: the frame's shorter side is resized to this many pixels; None: no resizing.
        max_side: ... unless its longer side would pass this.
        mean: per channel, RGB, in 0..255.
        std: per channel, RGB, in 0..255.
        size_divisor: zero padding at the right and bottom makes both sides multiples of this.
    """

    short_side: int | None = 480
    max_side: int = 1333
    mean: tuple[float, float, float] = (123.675, 116.28, 103.53)
    std: tuple[float, float, float] = (58.395, 57.12, 57.375)
    size_divisor: int = 32

    def __post_init__(self) -> None:
        if self.short_side is not None and self.short_side < 1:
            raise ConfigError(f"short side must be positive, got {self.short_side}")
        if self.max_side < 1 or self.size_divisor < 1:
            raise ConfigError("max side and size divisor must be positive")
        if not all(0 < value < math.inf for value in self.std):
            raise ConfigError(f"std must be positive, got {self.std}")
        if not all(map(math.isfinite, self.mean)):
            raise ConfigError(f"mean must be finite, got {self.mean}")

    def network_size(self, height: int, width: int) -> tuple[int, int]:
        """Un-padded (height, width) of the network input for a frame of this size, in pixels.

        The published `ResizeShortestEdge`: 360x640 becomes 480x853 with a short side of 480.
        """
        if self.short_side is None:
            return height, width
        scale = self.short_side / min(height, width)
        if height < width:
            new_height, new_width = float(self.short_side), scale * width
        else:
            new_height, new_width = scale * height, float(self.short_side)
        longer = max(new_height, new_width)
        if longer > self.max_side:
            scale = self.max_side / longer
            new_height, new_width = new_height * scale, new_width * scale
        return max(int(new_height + 0.5), 1), max(int(new_width + 0.5), 1)

    def padded_size(self, height: int, width: int) -> tuple[int, int]:
        """Padded (height, width) of a network input whose un-padded size is given, in pixels."""
        divisor = self.size_divisor
        return -(-height // divisor) * divisor, -(-width // divisor) * divisor


@dataclass(frozen=True)
class Category:
    """One class: its name, and its id in the data set's own annotation files (1-based there, with gaps in COCO)."""

    name: str
    dataset_id: int


@dataclass(frozen=True)
class StreamConfig:
    """All that a pipeline needs to know besides the network: what goes in, how tracks form, what comes out."""

    categories: tuple[Category, ...]
    preprocessing: Preprocessing = field(default_factory=Preprocessing)
    association: AssociationConfig = field(default_factory=AssociationConfig)
    video: VideoConfig = field(default_factory=VideoConfig)

    def __post_init__(self) -> None:
        if not self.categories:
            raise ConfigError("a network needs at least one category")
        if len({category.dataset_id for category in self.categories}) != len(self.categories):
            raise ConfigError("two categories share a data set id")

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names in the order of the network's class logits."""
        return tuple(category.name for category in self.categories)


def override_stream(config: StreamConfig, settings: Sequence[str]) -> StreamConfig:
    """Return a configuration with some association and video settings changed.

    Args:
        config: configuration to start from.
        settings: `association.KEY=VALUE` or `video.KEY=VALUE`, such as `association.temporal=paper`. The other parts
            of a configuration belong to the exported network.

    Raises:
        ConfigError: a key is unknown, or a value has a wrong type or is out of range.
    """
    from idol_runtime.field_text import (
        read_setting,  # here: importing a configuration must not import msgspec
    )

    changed: dict[str, Any] = {"association": config.association, "video": config.video}
    for setting in settings:
        path, equals, value = setting.partition("=")
        section, _, key = path.partition(".")
        if not equals or section not in changed:
            raise ConfigError(f"unknown setting {setting!r}; write association.KEY=VALUE or video.KEY=VALUE")
        owner = changed[section]
        changed[section] = replace(owner, **{key: read_setting(owner, key, value, setting)})
    return replace(config, **changed)
