"""The typed configuration of a stream, stored in a bundle's manifest.

The defaults are those of the published `ytvis19_r50` configuration (docs/idol.md §1, §4).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args, get_type_hints

from idol_runtime.errors import ConfigError

__all__ = ["AssociationConfig", "Category", "Preprocessing", "StreamConfig", "VideoConfig", "override_stream"]

# Every track allocates memory for this many embeddings at its first frame.
_MAX_MEMORY = 1000
# Frames a second of the annotations that networks learn from: 5.9 in YouTube-VIS, 5.4 in OVIS.
_LEARNED_FPS = 5.0
# Largest sides in pixels: that of a JPEG; a larger `max_side` means no limit.
_MAX_SIDES = {"short_side": 65_535, "max_side": 2**30, "size_divisor": 65_535}


def _require_share(section: str, settings: object, *names: str) -> None:
    for name in names:
        value = getattr(settings, name)
        if not 0.0 <= value <= 1.0:
            raise ConfigError(f"{section}.{name} must lie between 0 and 1, got {value}")


def _require_choice(section: str, settings: object, *names: str) -> None:
    hints = get_type_hints(type(settings))
    for name in names:
        choices, value = get_args(hints[name]), getattr(settings, name)
        if value not in choices:
            raise ConfigError(f"{section}.{name} must be one of {', '.join(choices)}, got {value!r}")


@dataclass(frozen=True)
class AssociationConfig:
    """Selection of detections from queries, and their association with tracks (docs/idol.md §4).

    Attributes:
        select_score: best class score above which a query is a candidate; higher values give fewer detections.
        box_nms_iou: IoU above which class-wise box NMS suppresses; higher values keep more overlapping boxes.
        mask_nms_iou: IoU above which class-agnostic mask NMS suppresses (0.3 in the OVIS presets).
        init_score: score above which a detection starts a track while no track exists.
        new_track_score: score above which an unmatched detection starts a track (0.3 for OVIS).
        match_score: similarity above which a detection matches a track; the similarity depends on `matching`.
        matching: similarity of detection and track. `embedding`: IDOL's bi-softmax; `multi_cue`: MaskTrack R-CNN's
            log p + log s + 2 IoU + 10 [same class], the baseline of the paper; `iou`: IoU with the last box of a track
            of the same class, which needs no embeddings.
        temporal: embedding of a track. `published`: its last embeddings weighted by score + t/n (t = n the newest);
            `paper`: weighted by tau + T/t (t = 1 the newest); `score`: weighted by the score; `momentum`: one running
            embedding.
        frame_weight: on rows with several candidates, weight by the number of frames in which the track was seen.
        memory_length: number of embeddings per track, 1 to 1000; the paper's T.
        tau: constant of the paper's temporal weight; higher values weight old embeddings more evenly.
        momentum: share of the new embedding in the running one, 0 to 1.
        max_age: number of frames after which an unseen track is deleted; its id is not used again.
        max_age_s: number of seconds for which an unseen track is not deleted, however many frames pass; higher values
            recognise instances after longer absences. None: frames alone, as published; see `for_live`.
        max_tracks: largest number of tracks in memory; the tracks unseen for longest are deleted beyond it. The default
            is above what 300 queries can start in `max_age` frames by default.
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
    max_age_s: float | None = None
    max_tracks: int = 10_000

    def __post_init__(self) -> None:
        scores = ("select_score", "init_score", "new_track_score", "match_score")
        _require_share("association", self, *scores, "box_nms_iou", "mask_nms_iou", "momentum")
        if not 1 <= self.memory_length <= _MAX_MEMORY:
            raise ConfigError(
                f"association.memory_length must lie between 1 and {_MAX_MEMORY}, got {self.memory_length}"
            )
        for name in ("max_age", "max_tracks"):
            if getattr(self, name) < 1:
                raise ConfigError(f"association.{name} must be at least 1, got {getattr(self, name)}")
        if not 0 <= (self.max_age_s or 0) < math.inf:
            raise ConfigError(f"association.max_age_s must not be negative, got {self.max_age_s}")
        if not 0 <= self.tau < math.inf:
            raise ConfigError(f"association.tau must not be negative, got {self.tau}")
        _require_choice("association", self, "matching", "temporal")

    def for_live(self) -> "AssociationConfig":
        """Return the rules for a camera or stream, whose frames may be dropped: `max_age_s` is set, if it is None.

        An unseen track then lives as long as `max_age` frames of the data sets: 2 s by default, whether the network
        processes 5 or 60 frames a second. A slower network deletes it after `max_age` frames.
        """
        return self if self.max_age_s is not None else replace(self, max_age_s=self.max_age / _LEARNED_FPS)


@dataclass(frozen=True)
class VideoConfig:
    """Combination of a track's frames into a video result (docs/idol.md §4, "Video result").

    Attributes:
        class_score: with `multi_class`, track score above which a class is a result.
        multi_class: one result per such class; False: one result per track, with its best class.
        temporal_score: score of a track: `mean` or `max` of its class scores over the frames where it was seen.
    """

    class_score: float = 0.05
    multi_class: bool = True
    temporal_score: Literal["mean", "max"] = "mean"

    def __post_init__(self) -> None:
        _require_share("video", self, "class_score")
        _require_choice("video", self, "temporal_score")


@dataclass(frozen=True)
class Preprocessing:
    """Conversion of a source frame to the network input (docs/idol.md §2).

    Attributes:
        short_side: length of the shorter side after the resize, in pixels; None: no resize.
        max_side: largest length of the longer side, in pixels; it limits the resize.
        mean: mean per channel, RGB, 0 to 255.
        std: standard deviation per channel, RGB, 0 to 255.
        size_divisor: zero padding at the right and bottom makes both sides multiples of this, in pixels.
    """

    short_side: int | None = 480
    max_side: int = 1333
    mean: tuple[float, float, float] = (123.675, 116.28, 103.53)
    std: tuple[float, float, float] = (58.395, 57.12, 57.375)
    size_divisor: int = 32

    def __post_init__(self) -> None:
        for name, most in _MAX_SIDES.items():
            value = getattr(self, name)
            if value is not None and not 1 <= value <= most:
                raise ConfigError(f"preprocessing.{name} must lie between 1 and {most}, got {value}")
        if not all(0 < value < math.inf for value in self.std):
            raise ConfigError(f"std must be positive, got {self.std}")
        if not all(map(math.isfinite, self.mean)):
            raise ConfigError(f"mean must be finite, got {self.mean}")

    def network_size(self, height: int, width: int) -> tuple[int, int]:
        """Return the un-padded (height, width) of the network input for a frame of this size, in pixels.

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
        """Return the padded (height, width) of a network input from its un-padded size, in pixels."""
        divisor = self.size_divisor
        return -(-height // divisor) * divisor, -(-width // divisor) * divisor


@dataclass(frozen=True)
class Category:
    """A class: its name, and its id in the data set's annotation files (1-based, with gaps in COCO)."""

    name: str
    dataset_id: int


@dataclass(frozen=True)
class StreamConfig:
    """The configuration of a pipeline besides the network: classes, preprocessing, association and results."""

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
        """Class names in the order of the network's logits."""
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
    # Here, because importing a configuration must not import msgspec.
    from idol_runtime.field_text import read_setting

    changed: dict[str, Any] = {"association": config.association, "video": config.video}
    for setting in settings:
        path, equals, value = setting.partition("=")
        section, _, key = path.partition(".")
        if not equals or section not in changed:
            raise ConfigError(f"unknown setting {setting!r}; write association.KEY=VALUE or video.KEY=VALUE")
        owner = changed[section]
        changed[section] = replace(owner, **{key: read_setting(owner, key, value, setting)})
    return replace(config, **changed)
