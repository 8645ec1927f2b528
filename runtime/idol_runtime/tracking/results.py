"""Results: the tracked instances of a frame, and the results of a whole video.

Letters: n instances of a frame; K classes; H, W pixels of the source frame.
"""

import functools
import json
from array import array
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, TypedDict

import numpy as np
from numpy.typing import NDArray

from idol_runtime.config import Category, VideoConfig
from idol_runtime.errors import ConfigError
from idol_runtime.files import replacing
from idol_runtime.optional import import_optional
from idol_runtime.preprocess import Placement
from idol_runtime.tracking.association import NO_TRACK
from idol_runtime.tracking.boxes import Bools, Floats, Ints
from idol_runtime.tracking.crops import MaskCrop, paste_masks
from idol_runtime.tracking.detection import Detections
from idol_runtime.tracking.masks import upsample_masks
from idol_runtime.tracking.rle import RLE, encode_crops

if TYPE_CHECKING:
    import supervision

__all__ = ["FrameResult", "SubmissionEntry", "VideoInstance", "VideoResult", "write_results"]

# Attributes of a FrameResult with one row per instance.
_ROWS = ("ids", "labels", "scores", "class_scores", "boxes_xyxy", "mask_logits")


@dataclass(frozen=True, eq=False)
class FrameResult:
    """The tracked instances of one frame, best score first.

    Attributes:
        index: frame number in the stream, from 0.
        ids: [n] identities, stable over the stream.
        labels: [n] classes, as indices into `class_names`.
        scores: [n] scores of these classes, in 0..1.
        class_scores: [n, K] scores of all classes, in 0..1.
        boxes_xyxy: [n, 4] boxes in pixels of the source frame.
        mask_logits: [n, h, w] mask logits at stride 4 of the padded network input.
        placement: position of the source frame in the network input.
        class_names: class names in the order of the class scores.
    """

    index: int
    ids: Ints
    labels: Ints
    scores: Floats
    class_scores: Floats
    boxes_xyxy: Floats
    mask_logits: Floats
    placement: Placement
    class_names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.ids)

    @classmethod
    def from_detections(
        cls, index: int, detections: Detections, ids: Ints, placement: Placement, class_names: tuple[str, ...]
    ) -> "FrameResult":
        """Build a result from the detections that have an identity; the others belong to no track."""
        tracked = ids != NO_TRACK
        return cls(
            index=index,
            ids=ids[tracked],
            labels=detections.labels[tracked],
            scores=detections.scores[tracked],
            class_scores=detections.class_scores[tracked],
            boxes_xyxy=placement.boxes_to_frame(detections.boxes[tracked]),
            mask_logits=detections.mask_logits[tracked],
            placement=placement,
            class_names=class_names,
        )

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) of the source frame in pixels."""
        return self.placement.frame

    @functools.cached_property
    def crops(self) -> tuple[MaskCrop, ...]:
        """Masks at the resolution of the source frame, stored as n crops; computed on first use."""
        return upsample_masks(self.mask_logits, self.placement)

    @functools.cached_property
    def masks(self) -> Bools:
        """[n, H, W] masks at the resolution of the source frame; computed on first use."""
        return paste_masks(self.crops, self.placement.frame)

    def above(self, score: float) -> "FrameResult":
        """Return the instances whose score is at least `score`; the result itself if all are."""
        keep = self.scores >= np.float32(score)
        if keep.all():
            return self
        return replace(self, **{name: getattr(self, name)[keep] for name in _ROWS})

    def to_supervision(self) -> "supervision.Detections":
        """Convert to `supervision.Detections`, with masks, tracker ids and class names.

        Raises:
            MissingDependencyError: the supervision package is not installed.
        """
        module = import_optional("supervision", "supervision", "supervision", "to_supervision()")
        detections: supervision.Detections = module.Detections(
            xyxy=self.boxes_xyxy,
            mask=self.masks,
            confidence=self.scores,
            class_id=self.labels,
            tracker_id=self.ids,
            data={"class_name": np.array([self.class_names[label] for label in self.labels], dtype=str)},
        )
        return detections


class SubmissionEntry(TypedDict):
    """One entry of a results file in the YouTube-VIS / OVIS submission format."""

    video_id: int
    score: float
    category_id: int
    segmentations: list[RLE]


@dataclass(frozen=True)
class VideoInstance:
    """One result of a video: a track with one class.

    Attributes:
        track: identity of the track.
        label: index of the class.
        score: score of the class over the frames in which the track was seen, in 0..1.
        masks: compressed RLE by frame index, only for frames in which the track was seen.
    """

    track: int
    label: int
    score: float
    masks: Mapping[int, RLE]


class _SpooledMasks(MutableMapping[int, RLE]):
    """Compressed masks by frame index, in a file; 16 bytes per mask stay in memory."""

    def __init__(self, spool: BinaryIO, size: tuple[int, int]) -> None:
        self._spool, self._size = spool, size
        self._frames, self._offsets = array("q"), array("q")

    def __setitem__(self, frame: int, mask: RLE) -> None:
        """Add the mask of a frame after the last one."""
        self._frames.append(frame)
        self._offsets.append(self._spool.seek(0, 2))
        self._spool.write(mask["counts"].encode("ascii") + b"\n")

    def __getitem__(self, frame: int) -> RLE:
        place = bisect_left(self._frames, frame)
        if self._frames[place : place + 1] != array("q", [frame]):
            raise KeyError(frame)
        self._spool.seek(self._offsets[place])
        return {"size": [*self._size], "counts": self._spool.readline()[:-1].decode("ascii")}

    def __delitem__(self, frame: int) -> None:
        raise KeyError(f"masks of frame {frame} cannot be deleted; drop the track")

    def __iter__(self) -> Iterator[int]:
        return iter(self._frames)

    def __len__(self) -> int:
        return len(self._frames)


@dataclass
class _Track:
    masks: MutableMapping[int, RLE] = field(default_factory=dict)
    score_sum: NDArray[np.float64] | float = 0.0
    best: Floats | float = 0.0
    last_seen: int = -1

    def add(self, frame: int, class_scores: Floats, mask: RLE) -> None:
        self.masks[frame] = mask
        self.last_seen = frame
        self.score_sum = class_scores.astype(np.float64) + self.score_sum
        self.best = np.maximum(class_scores, self.best)

    def class_scores(self, kind: str) -> Floats:
        return np.asarray(self.best if kind == "max" else self.score_sum / len(self.masks), np.float32)


class VideoResult:
    """The results of one video by the published procedure: add every frame, then call `instances` or `submission`.

    Only compressed masks are stored.

    Args:
        config: combination of a track's frames.
        spool: empty file, open for reading and writing, that stores the masks; None stores them in memory.
    """

    def __init__(self, config: VideoConfig, spool: BinaryIO | None = None) -> None:
        self._config, self._spool = config, spool
        self._tracks: dict[int, _Track] = {}
        self._short: set[int] = set()  # short tracks: only they can be dropped
        self._frames = 0
        self._size: tuple[int, int] | None = None

    def add(self, result: FrameResult) -> None:
        """Add the next frame.

        Raises:
            ConfigError: the frame has another size than the frames before.
        """
        size = result.placement.frame
        if self._size not in (None, size):
            raise ConfigError(
                f"frames of one video have different sizes: {size} after {self._size}; use a VideoResult each"
            )
        self._size = size
        rles = encode_crops(result.crops, size)
        for track_id, scores, rle in zip(result.ids.tolist(), result.class_scores, rles, strict=True):
            if (track := self._tracks.get(track_id)) is None:
                track = self._tracks[track_id] = _Track(
                    {} if self._spool is None else _SpooledMasks(self._spool, size)
                )
            track.add(self._frames, scores, rle)
            (self._short.add if len(track.masks) < 3 else self._short.discard)(track_id)
        # From the tenth frame on, tracks that were seen less than three times and not in the last two frames are
        # dropped (docs/idol.md §4, "Video result").
        if self._frames >= 9:
            for track_id in [i for i in self._short if self._tracks[i].last_seen < self._frames - 1]:
                self._short.discard(track_id)
                del self._tracks[track_id]
        self._frames += 1

    @property
    def tracks(self) -> dict[int, Mapping[int, RLE]]:
        """Compressed masks by identity and frame index, in the order in which the tracks were first seen.

        A track that was dropped and seen again is at the end, without its history, as in the published code.
        """
        return {track_id: track.masks for track_id, track in self._tracks.items()}

    def instances(self) -> list[VideoInstance]:
        """Return every (track, class) above the class score, or every track's best class, in the order of `tracks`."""
        instances = []
        for track_id, track in self._tracks.items():
            scores = track.class_scores(self._config.temporal_score)
            if self._config.multi_class:
                labels = np.flatnonzero(scores > np.float32(self._config.class_score))
            else:
                labels = np.array([scores.argmax()])
            instances += [VideoInstance(track_id, int(k), float(scores[k]), track.masks) for k in labels]
        return instances

    def submission(self, video_id: int, categories: Sequence[Category]) -> list[SubmissionEntry]:
        """Return the instances in the YouTube-VIS / OVIS submission format, with empty masks for unseen frames."""
        return list(self.entries(video_id, categories))

    def entries(self, video_id: int, categories: Sequence[Category]) -> Iterator[SubmissionEntry]:
        """Yield the entries of `submission` one by one: together they have a mask per instance and frame."""
        if self._size is None:
            return
        (empty,) = encode_crops([MaskCrop(0, 0, np.zeros((0, 0), np.bool_))], self._size)
        for instance in self.instances():
            segmentations = [empty] * self._frames
            for frame, mask in instance.masks.items():
                segmentations[frame] = mask
            yield SubmissionEntry(
                video_id=video_id,
                score=instance.score,
                category_id=categories[instance.label].dataset_id,
                segmentations=segmentations,
            )


def write_results(path: str | Path, entries: Iterable[SubmissionEntry]) -> None:
    """Write a results file, completely or not at all, with one entry in memory at a time.

    Raises:
        OutputError: the file cannot be written.
    """
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        file.write("[")
        for i, entry in enumerate(entries):
            file.write("," * bool(i) + json.dumps(entry, separators=(",", ":")))
        file.write("]")
