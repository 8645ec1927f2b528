"""One network and two associations on one video, and where they disagree on who is who.

Both go through `idol_runtime.Pipeline`: the network runs once a frame, and each selects and associates by itself.
Letters: n detections of a frame, T frames.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from idol_deploy.evaluate.caching import CachingBackend
from idol_runtime.config import override
from idol_runtime.errors import SourceError
from idol_runtime.pipeline import Pipeline
from idol_runtime.sources.opening import open_source
from idol_runtime.tracking.association import NO_TRACK
from idol_runtime.tracking.results import FrameResult
from idol_runtime.tracking.rle import RLE, encode_rles

__all__ = ["TAKEN_OVER", "TwinFrame", "choose_frames", "find_changes", "run_twins"]

# In place of an earlier identity: the instance had none, and has one that was another's.
TAKEN_OVER = -2

Ints = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class TwinFrame:
    """The instances that at least one of two runs tracks in a frame.

    Attributes:
        index: of the frame in the source.
        ids: [2, n] identity in either run; `NO_TRACK` where it has none.
        boxes_xyxy: [n, 4] in pixels of the frame.
        masks: n compressed masks.
    """

    index: int
    ids: Ints
    boxes_xyxy: NDArray[np.float32]
    masks: tuple[RLE, ...]


def run_twins(
    pipeline: Pipeline,
    other: Sequence[str],
    source: str,
    *,
    stride: int = 1,
    max_frames: int | None = None,
) -> list[TwinFrame]:
    """Track a video twice.

    Args:
        pipeline: the first run.
        other: what the second changes in its configuration; see `idol_runtime.config.override`.
        source: a video file, or images.
        stride: take every n-th frame.
        max_frames: stop after this many.

    Raises:
        ConfigError: a change that cannot be.
        SourceError: the source cannot be read, or has no end.
        FrameError: a frame cannot be processed.
        MissingDependencyError: pycocotools is not installed.
    """
    once = CachingBackend(pipeline.backend, keep=1)
    twins = [
        Pipeline(once, config, fit=pipeline.fit)
        for config in (pipeline.config, override(pipeline.config, other))
    ]
    with open_source(source, stride=stride, max_frames=max_frames) as frames:
        if frames.live:
            raise SourceError(f"{frames.name} cannot be read again to draw it; record it, and give the file")
        return [_join(frame.index, [twin.step(frame.image) for twin in twins]) for frame in frames]


def choose_frames(frames: Sequence[TwinFrame], count: int, within: int = 30) -> list[int]:
    """Where the runs differ most: two frames between which they disagree on most instances, and others evenly between.

    Args:
        frames: T, of both runs.
        count: how many to choose; at least 2.
        within: the two are at most so far apart; of equal ones the nearest are taken.

    Returns:
        Positions in `frames`, rising; evenly over all of them where the runs agree everywhere.
    """
    best, ends = 0, (0, len(frames) - 1)
    for gap in range(count - 1, within + 1):
        for first in range(len(frames) - gap):
            found = len(_disagreements(frames[first].ids, frames[first + gap].ids))
            if found > best:
                best, ends = found, (first, first + gap)
    return sorted({round(position) for position in np.linspace(*ends, count)})


def find_changes(frames: Sequence[TwinFrame], run: int, truth: Sequence[Ints] | None = None) -> list[Ints]:
    """For each frame and instance, the identity that it had in an earlier one of the frames, where that is another.

    Args:
        frames: those that are shown.
        run: which of the two.
        truth: [n] of each frame, which annotated instance it is, `NO_TRACK` for none; None: the other run is
            taken to be right.

    Returns:
        [n] of each frame; `NO_TRACK` where nothing changed, and, if there is `truth`, `TAKEN_OVER`. (Without, one run
        breaking a track would mean that the other takes an identity over.)
    """
    known: dict[int, int] = {}
    owners: dict[int, int] = {}
    changes = []
    for number, frame in enumerate(frames):
        whose = frame.ids[1 - run] if truth is None else truth[number]
        changed = np.full(len(whose), NO_TRACK, np.int64)
        for i, (who, identity) in enumerate(zip(whose.tolist(), frame.ids[run].tolist(), strict=True)):
            if NO_TRACK in (who, identity):
                continue
            if known.get(who, identity) != identity:
                changed[i] = known[who]
            elif truth is not None and owners.get(identity, who) != who:
                changed[i] = TAKEN_OVER
            known[who], owners[identity] = identity, who
        changes.append(changed)
    return changes


def _join(index: int, results: Sequence[FrameResult]) -> TwinFrame:
    """The two results of a frame, instance by instance: they are of the same queries, so their boxes are equal."""
    places: dict[bytes, int] = {}
    found: list[tuple[int, FrameResult, int]] = []
    rows: list[dict[int, int]] = []
    for result in results:
        row = {}
        for i, box in enumerate(result.boxes_xyxy):
            place = places.setdefault(box.tobytes(), len(places))
            if place == len(found):
                found.append((place, result, i))
            row[place] = int(result.ids[i])
        rows.append(row)
    masks = [encode_rles(result.masks[i : i + 1])[0] for _, result, i in found]
    return TwinFrame(
        index,
        np.array([[row.get(place, NO_TRACK) for place in range(len(found))] for row in rows], np.int64),
        np.array([result.boxes_xyxy[i] for _, result, i in found], np.float32).reshape(-1, 4),
        tuple(masks),
    )


def _disagreements(early: Ints, late: Ints) -> Ints:
    """Instances of the later frame that one run holds to be one of the earlier frame, and the other does not."""
    tracked = (late != NO_TRACK).all(0)
    same = (late[:, :, None] == early[:, None, :]) & (early != NO_TRACK).all(0)
    return np.flatnonzero(tracked & (same[0] != same[1]).any(1))
