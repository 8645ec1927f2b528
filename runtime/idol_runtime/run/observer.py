"""The observation of a run: one report per frame, for metrics and viewers."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from idol_runtime.frames import Frame
from idol_runtime.tracking.results import FrameResult

__all__ = ["STAGES", "FrameReport", "Observe"]

# Stages of a frame in their order; `write` includes all outputs.
STAGES = ("wait", "prepare", "network", "track", "write")


@dataclass(frozen=True, eq=False)
class FrameReport:
    """A frame whose outputs are written.

    Attributes:
        source: name of the source.
        frame: frame of the source; its image must not be changed.
        result: instances above the minimum score of the source.
        stages: seconds by stage (`STAGES`); `wait` only for a camera or stream. Frames of one network call share the
            times of `network` and `track`.
        age_s: seconds from the arrival of the frame to its result; None for a file.
        frames: number of frames processed so far.
        dropped: number of frames dropped so far.
        tracks: number of identities started so far.
    """

    source: str
    frame: Frame
    result: FrameResult
    stages: Mapping[str, float]
    age_s: float | None
    frames: int
    dropped: int
    tracks: int


# Called in the thread that writes the outputs of the source, which it must not hold up.
Observe: TypeAlias = Callable[[FrameReport], None]
