"""Events about frames that are dropped continuously, with the likely cause."""

import math
from collections.abc import Callable

__all__ = ["DropReports"]

# First and longest time that one event is about, in seconds.
_INTERVAL_S, _LONGEST_S = 10.0, 600.0
# Share of the dropped frames above which an interval is told.
_SHARE = 0.05


class DropReports:
    """Events about the frames of one source that are dropped continuously.

    The counters are compared after an interval of 10 s. If more than 5 % of the frames, and more than one, were
    dropped in it, an event is told, and the next interval is twice as long, up to 10 minutes. After an interval without
    an event, the next one has 10 s again.
    """

    def __init__(self, now: float, stride: int, tell: Callable[..., None]) -> None:
        """Begin the first interval.

        Args:
            now: time in seconds on the monotonic clock.
            stride: every stride-th frame of the source is wanted.
            tell: function that receives the kind, the message and the values of an event.
        """
        self._stride, self._tell, self._interval_s = stride, tell, _INTERVAL_S
        self.restart(now, 0, 0)

    def restart(self, now: float, dropped: int, frames: int) -> None:
        """Begin the interval again; the arguments are those of `update`."""
        self._start_s, self._dropped, self._frames = now, dropped, frames

    def update(self, now: float, dropped: int, frames: int, *, slow_output: bool) -> None:
        """Tell an event, if the interval is over and has dropped frames.

        Args:
            now: time in seconds on the monotonic clock.
            dropped: number of frames dropped so far.
            frames: number of frames processed so far.
            slow_output: True if the network waits for an output.
        """
        if (seconds := now - self._start_s) < self._interval_s:
            return
        lost, done = dropped - self._dropped, frames - self._frames
        self.restart(now, dropped, frames)
        if lost <= max(1, _SHARE * (lost + done)):
            self._interval_s = _INTERVAL_S
            return
        self._interval_s = min(2 * self._interval_s, _LONGEST_S)
        message = (
            f"{lost} of {lost + done} frames dropped in {seconds:.0f} s: "
            f"{_explain(lost + done, done, seconds, self._stride, slow_output)}"
        )
        self._tell("dropped", message, dropped=lost, frames=done, seconds=round(seconds, 3), total=dropped)


def _explain(arrived: int, done: int, seconds: float, stride: int, slow_output: bool) -> str:
    """Return the cause of dropped frames, and how to avoid it."""
    pace = f"one every {1e3 * seconds / done:.0f} ms" if done else "none"
    higher = f"--stride {stride * math.ceil(arrived / done)}" if done else "a higher --stride"
    if slow_output:
        cause = "the outputs take"
        fix = "check the disk, write fewer outputs,"
    else:
        cause = "the network takes"
        fix = "idol-deploy doctor and run --explain name a faster graph; else run fewer streams"
    return f"a frame comes every {1e3 * seconds / arrived:.0f} ms, and {cause} {pace}; {fix} or give {higher}"
