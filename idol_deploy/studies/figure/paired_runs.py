"""Two associations of one network on one video, and the frames in which their identities differ.

Both run through `idol_runtime.Pipeline`: the network runs once per frame, selection and association once per run.
Letters: n detections of a frame; T frames.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from idol_deploy.evaluate.caching import CachingBackend
from idol_runtime.config import override_stream
from idol_runtime.errors import SourceError
from idol_runtime.pipeline import Pipeline
from idol_runtime.sources.opening import open_source
from idol_runtime.tracking.association import NO_TRACK
from idol_runtime.tracking.results import FrameResult
from idol_runtime.tracking.rle import RLE, encode_rles

__all__ = ["TAKEN_OVER", "PairedFrame", "choose_frames", "find_changes", "run_pair"]

# Instead of an earlier identity: the instance had none, and now has the identity of another instance.
TAKEN_OVER = -2

Ints = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class PairedFrame:
    """The instances of a frame that at least one of two runs tracks.

    Attributes:
        index: index of the frame in the source.
        ids: [2, n] identity in each run; `NO_TRACK` for an instance that the run does not track.
        boxes_xyxy: [n, 4] in pixels of the frame.
        masks: n compressed masks.
    """

    index: int
    ids: Ints
    boxes_xyxy: NDArray[np.float32]
    masks: tuple[RLE, ...]


def run_pair(
    pipeline: Pipeline, changes: Sequence[str], source: str, *, stride: int = 1, max_frames: int | None = None
) -> list[PairedFrame]:
    """Track a video with two configurations.

    Args:
        pipeline: pipeline of the first run.
        changes: changes of its configuration for the second run; see `idol_runtime.config.override_stream`.
        source: video file, or images.
        stride: take every n-th frame (default: 1).
        max_frames: stop after this many frames (default: no limit).

    Raises:
        ConfigError: a change is invalid.
        SourceError: the source cannot be read, or is a stream.
        FrameError: a frame cannot be processed.
        MissingDependencyError: pycocotools is not installed.
    """
    backend = CachingBackend(pipeline.backend, keep=1)
    configs = pipeline.config, override_stream(pipeline.config, changes)
    runs = [Pipeline(backend, config, fit=pipeline.fit) for config in configs]
    with open_source(source, stride=stride, max_frames=max_frames) as frames:
        if frames.live:
            raise SourceError(
                f"{frames.name} cannot be read a second time to draw it; record it and give the file"
            )
        return [_pair(frame.index, [run.step(frame.image) for run in runs]) for frame in frames]


def choose_frames(frames: Sequence[PairedFrame], count: int, within: int = 30) -> list[int]:
    """Choose two frames between which the runs disagree on most instances, and others evenly between them.

    Args:
        frames: T frames of both runs.
        count: number of frames to choose, at least 2.
        within: largest distance of the two frames (default: 30); of equal pairs the nearest is taken.

    Returns:
        Positions in `frames`, rising; evenly over all frames if the runs agree everywhere.
    """
    most, ends = 0, (0, len(frames) - 1)
    for gap in range(count - 1, within + 1):
        for first in range(len(frames) - gap):
            disagreements = _disagreements(frames[first].ids, frames[first + gap].ids)
            if disagreements > most:
                most, ends = disagreements, (first, first + gap)
    return sorted({round(position) for position in np.linspace(*ends, count)})


def find_changes(
    frames: Sequence[PairedFrame], run: int, instances: Sequence[Ints] | None = None
) -> list[Ints]:
    """Find identities that differ from the identity of the same instance in an earlier frame.

    Args:
        frames: frames to compare.
        run: number of the run, 0 or 1.
        instances: per frame [n] indices of annotated instances, `NO_TRACK` for none; None (default): the identities of
            the other run are taken as correct.

    Returns:
        Per frame [n] the former identity, or `NO_TRACK` without a change. With `instances` also `TAKEN_OVER`; without,
        a broken track of one run would look like a take-over in the other.
    """
    known: dict[int, int] = {}
    owners: dict[int, int] = {}
    changes = []
    for number, frame in enumerate(frames):
        reference = frame.ids[1 - run] if instances is None else instances[number]
        changed = np.full(len(reference), NO_TRACK, np.int64)
        for i, (instance, identity) in enumerate(
            zip(reference.tolist(), frame.ids[run].tolist(), strict=True)
        ):
            if NO_TRACK in (instance, identity):
                continue
            if known.get(instance, identity) != identity:
                changed[i] = known[instance]
            elif instances is not None and owners.get(identity, instance) != instance:
                changed[i] = TAKEN_OVER
            known[instance], owners[identity] = identity, instance
        changes.append(changed)
    return changes


def _pair(index: int, results: Sequence[FrameResult]) -> PairedFrame:
    """Join the results of a frame by box: both select from the same queries, so boxes of an instance are equal."""
    instances: dict[bytes, tuple[FrameResult, int]] = {}
    ids: list[dict[bytes, int]] = []
    for result in results:
        keys = [box.tobytes() for box in result.boxes_xyxy]
        ids.append(dict(zip(keys, result.ids.tolist(), strict=True)))
        for i, key in enumerate(keys):
            instances.setdefault(key, (result, i))
    return PairedFrame(
        index,
        np.array([[of_run.get(key, NO_TRACK) for key in instances] for of_run in ids], np.int64),
        np.array([result.boxes_xyxy[i] for result, i in instances.values()], np.float32).reshape(-1, 4),
        tuple(encode_rles(result.masks[i : i + 1])[0] for result, i in instances.values()),
    )


def _disagreements(early: Ints, late: Ints) -> int:
    """Count instances of the later frame that one run identifies with an instance of the earlier, the other not."""
    tracked = (late != NO_TRACK).all(0)
    same = (late[:, :, None] == early[:, None, :]) & (early != NO_TRACK).all(0)
    return int(np.count_nonzero(tracked & (same[0] != same[1]).any(1)))
