"""What comes out: the tracked instances of a frame, and the results of a whole video.

Letters: n instances of a frame; K classes; H, W pixels of the source frame.
"""

import functools
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

import numpy as np
from numpy.typing import NDArray

from idol_runtime.config import Category, VideoConfig
from idol_runtime.errors import ConfigError, MissingDependencyError
from idol_runtime.files import replacing
from idol_runtime.preprocess import Placement
from idol_runtime.tracking.association import NO_TRACK
from idol_runtime.tracking.crops import MaskCrop, paste_masks
from idol_runtime.tracking.detection import Detections
from idol_runtime.tracking.masks import upsample_masks
from idol_runtime.tracking.rle import RLE, encode_crops

if TYPE_CHECKING:
    import supervision

__all__ = ["FrameResult", "SubmissionEntry", "VideoInstance", "VideoResult", "write_results"]

# From its tenth frame on, a video drops tracks that were seen less than three times and not in the last two
# frames (docs/idol.md §4, "Video result").
_FIRST_PRUNED_FRAME = 9
_SHORT = 3


@dataclass(frozen=True, eq=False)
class FrameResult:
    """The tracked instances of one frame, best score first.

    Attributes:
        index: which frame of the stream, from 0.
        ids: [n] identities, stable over the stream.
        labels: [n] class, an index into `class_names`.
        scores: [n] score of that class.
        class_scores: [n, K] scores of all classes.
        boxes_xyxy: [n, 4] in pixels of the source frame.
        mask_logits: [n, h, w] at stride 4 of the padded network input.
        placement: where the source frame lies in the network input.
        class_names: in the order of the class scores.
    """

    index: int
    ids: NDArray[np.int64]
    labels: NDArray[np.int64]
    scores: NDArray[np.float32]
    class_scores: NDArray[np.float32]
    boxes_xyxy: NDArray[np.float32]
    mask_logits: NDArray[np.float32]
    placement: Placement
    class_names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.ids)

    @classmethod
    def from_detections(
        cls,
        index: int,
        found: Detections,
        ids: NDArray[np.int64],
        placement: Placement,
        class_names: tuple[str, ...],
    ) -> "FrameResult":
        """The detections that have an identity; the others neither continue nor start a track."""
        tracked = ids != NO_TRACK
        return cls(
            index=index,
            ids=ids[tracked],
            labels=found.labels[tracked],
            scores=found.scores[tracked],
            class_scores=found.class_scores[tracked],
            boxes_xyxy=placement.boxes_to_frame(found.boxes[tracked]),
            mask_logits=found.mask_logits[tracked],
            placement=placement,
            class_names=class_names,
        )

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) of the source frame in pixels."""
        return self.placement.frame

    @functools.cached_property
    def crops(self) -> tuple[MaskCrop, ...]:
        """The masks at the resolution of the source frame, each in its box, computed when first asked for."""
        return upsample_masks(self.mask_logits, self.placement)

    @functools.cached_property
    def masks(self) -> NDArray[np.bool_]:
        """[n, H, W] at the resolution of the source frame, made from `crops` when first asked for."""
        return paste_masks(self.crops, self.placement.frame)

    def above(self, score: float) -> "FrameResult":
        """The instances whose score is at least `score`; itself where all are."""
        keep = self.scores >= np.float32(score)
        if keep.all():
            return self
        return FrameResult(
            index=self.index,
            ids=self.ids[keep],
            labels=self.labels[keep],
            scores=self.scores[keep],
            class_scores=self.class_scores[keep],
            boxes_xyxy=self.boxes_xyxy[keep],
            mask_logits=self.mask_logits[keep],
            placement=self.placement,
            class_names=self.class_names,
        )

    def to_supervision(self) -> "supervision.Detections":
        """As `supervision.Detections`, with masks, tracker ids and class names.

        Raises:
            MissingDependencyError: the supervision package is not installed.
        """
        try:
            import supervision
        except ImportError as error:
            raise MissingDependencyError("supervision", "supervision", "to_supervision()") from error
        return supervision.Detections(
            xyxy=self.boxes_xyxy,
            mask=self.masks,
            confidence=self.scores,
            class_id=self.labels,
            tracker_id=self.ids,
            data={"class_name": np.array([self.class_names[label] for label in self.labels], dtype=str)},
        )


class SubmissionEntry(TypedDict):
    """One result in the YouTube-VIS / OVIS submission format."""

    video_id: int
    score: float
    category_id: int
    segmentations: list[RLE]


@dataclass(frozen=True)
class VideoInstance:
    """One result of a video: a track under one class.

    Attributes:
        track: identity.
        label: class.
        score: of that class over the frames where the track was seen.
        masks: compressed RLE by frame index, only for frames where the track was seen.
    """

    track: int
    label: int
    score: float
    masks: Mapping[int, RLE]


@dataclass
class _Track:
    masks: dict[int, RLE] = field(default_factory=dict)
    mean: NDArray[np.float64] | None = None  # running sum until divided
    best: NDArray[np.float32] | None = None
    last_seen: int = -1

    def see(self, frame: int, class_scores: NDArray[np.float32], mask: RLE) -> None:
        self.masks[frame] = mask
        self.last_seen = frame
        self.mean = class_scores.astype(np.float64) + (0.0 if self.mean is None else self.mean)
        self.best = class_scores if self.best is None else np.maximum(self.best, class_scores)

    def class_scores(self, kind: str) -> NDArray[np.float32]:
        assert self.mean is not None
        assert self.best is not None
        return self.best if kind == "max" else (self.mean / len(self.masks)).astype(np.float32)


class VideoResult:
    """Collects the frames of one video into the results that the published procedure gives for it.

    Holds compressed masks only. Add every frame, then ask for `instances()`.
    """

    def __init__(self, config: VideoConfig) -> None:
        self._config = config
        self._tracks: dict[int, _Track] = {}
        self._short: set[int] = set()  # only these can ever be dropped, so only these are looked at
        self._frames = 0
        self._size: tuple[int, int] | None = None

    def add(self, result: FrameResult) -> None:
        """Add the next frame.

        Raises:
            ConfigError: it has another size than the frames before.
        """
        size = result.placement.frame
        if self._size not in (None, size):
            raise ConfigError(
                f"a video has one frame size: got {size} after {self._size}; use a VideoResult each"
            )
        self._size = size
        rles = encode_crops(result.crops, size)
        for track_id, scores, rle in zip(result.ids.tolist(), result.class_scores, rles, strict=True):
            track = self._tracks.setdefault(track_id, _Track())
            track.see(self._frames, scores, rle)
            (self._short.add if len(track.masks) < _SHORT else self._short.discard)(track_id)
        if self._frames >= _FIRST_PRUNED_FRAME:
            self._prune()
        self._frames += 1

    def _prune(self) -> None:
        for track_id in [i for i in self._short if self._tracks[i].last_seen < self._frames - 1]:
            self._short.discard(track_id)
            del self._tracks[track_id]

    @property
    def tracks(self) -> dict[int, Mapping[int, RLE]]:
        """Compressed masks by frame index, by identity, in the order in which the tracks entered the result.

        A track that was dropped and seen again stands at the end, without its history, as published.
        """
        return {track_id: track.masks for track_id, track in self._tracks.items()}

    def instances(self) -> list[VideoInstance]:
        """Every (track, class) above the class score, or every track's best class, in the order of `tracks`."""
        found = []
        for track_id, track in self._tracks.items():
            scores = track.class_scores(self._config.temporal_score)
            if self._config.multi_class:
                labels = np.flatnonzero(scores > np.float32(self._config.class_score))
            else:
                labels = np.array([scores.argmax()])
            found += [VideoInstance(track_id, int(k), float(scores[k]), track.masks) for k in labels]
        return found

    def submission(self, video_id: int, categories: Sequence[Category]) -> list[SubmissionEntry]:
        """The instances in the YouTube-VIS / OVIS submission format; frames without the track are empty masks."""
        if self._size is None:
            return []
        (empty,) = encode_crops([MaskCrop(0, 0, np.zeros((0, 0), np.bool_))], self._size)
        return [
            SubmissionEntry(
                video_id=video_id,
                score=instance.score,
                category_id=categories[instance.label].dataset_id,
                segmentations=[instance.masks.get(frame, empty) for frame in range(self._frames)],
            )
            for instance in self.instances()
        ]


def write_results(path: str | Path, entries: Iterable[SubmissionEntry]) -> None:
    """Write `results.json`, whole or not at all.

    Raises:
        OutputError: the place cannot be written.
    """
    listing: list[Any] = list(entries)
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(listing, separators=(",", ":")))
