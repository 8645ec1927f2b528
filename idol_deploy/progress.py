"""Progress of a command: its current step, the number of finished items, and the time left."""

import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Protocol, TypeVar

__all__ = ["Announce", "StepDisplay", "counted", "silent", "steps"]

T = TypeVar("T")

_CLEAR = "\r\x1b[K"  # to the start of the line, which is erased
# Least time between two displays of one step.
_TERMINAL_SECONDS, _LINE_SECONDS = 0.5, 10.0


class Announce(Protocol):
    """A function that shows the current step of a command."""

    def __call__(self, step: str, done: int = 0, total: int = 0, unit: str = "frames") -> None:
        """Show a step.

        Args:
            step: description of the step; another description begins a new step.
            done: number of finished items.
            total: number of items; 0 if it is unknown.
            unit: name of the items.
        """


def silent(step: str, done: int = 0, total: int = 0, unit: str = "frames") -> None:
    """Show nothing."""


def counted(
    items: Iterable[T], announce: Announce, step: str, total: int = 0, unit: str = "frames"
) -> Iterator[T]:
    """Yield the items; announce the step before the first one, and each item that the caller has finished."""
    announce(step, 0, total, unit)
    for done, item in enumerate(items, 1):
        yield item
        announce(step, done, total, unit)


@contextlib.contextmanager
def steps(*, redraw: bool = False) -> Iterator[Announce]:
    """Yield a function that shows the current step: in place on a terminal, else as occasional lines on stdout.

    Args:
        redraw: update the time on a terminal while nothing is announced; only for commands without other progress bars.
    """
    display = StepDisplay(terminal=sys.stderr.isatty())
    ended = threading.Event()
    thread = threading.Thread(target=display.redraw, args=(ended,), name="idol-progress", daemon=True)
    if redraw and display.terminal:
        thread.start()
    try:
        yield display
        display.finish()
    finally:
        ended.set()
        if thread.is_alive():
            thread.join()
        display.clear()


class StepDisplay:
    """A display of the current step, the number of finished items, and the time left or passed.

    In a file or pipe, a step has a line when it begins and every ten seconds, and one when it ends if it was that long.

    Args:
        terminal: draw in place on stderr; False: print lines to stdout.
        clock: function that returns the time in seconds.
    """

    def __init__(self, *, terminal: bool, clock: Callable[[], float] = time.monotonic) -> None:
        self.terminal = terminal
        self._period = _TERMINAL_SECONDS if terminal else _LINE_SECONDS
        self._clock, self._lock = clock, threading.Lock()
        self._step: tuple[str, int, int, str] | None = None
        self._begun = self._drawn = 0.0
        self._first = 0  # finished items when the step began

    def __call__(self, step: str, done: int = 0, total: int = 0, unit: str = "frames") -> None:
        """Show a step; see `Announce`."""
        begins = self._step is None or self._step[0] != step or done < self._step[1]
        if begins:
            self.finish()
            self._begun, self._first = self._clock(), done
        self._step = step, done, total, unit
        if begins or self._clock() - self._drawn >= self._period:
            self._draw()

    def finish(self) -> None:
        """End the step; in a file or pipe, print its duration if it was long."""
        seconds = self._clock() - self._begun
        if self._step is not None and not self.terminal and seconds >= _LINE_SECONDS:
            self._write(f"{self._step[0]}: finished in {_duration(seconds)}\n")
        self._step = None

    def redraw(self, ended: threading.Event) -> None:
        """Draw again and again, until the event."""
        while not ended.wait(_TERMINAL_SECONDS):
            self._draw()

    def clear(self) -> None:
        """Clear the line of a terminal."""
        if self.terminal:
            self._write(_CLEAR)

    def _draw(self) -> None:
        if (step := self._step) is None:
            return
        name, state = step[0], self._state(*step[1:])
        if not self.terminal:
            self._write(f"{name}{state}\n")
            return
        columns = 80
        with contextlib.suppress(OSError, ValueError):
            columns = os.get_terminal_size(sys.stderr.fileno()).columns or columns
        self._write(f"{_CLEAR}{name[: max(0, columns - len(state) - 3)]}{state} …")

    def _write(self, text: str) -> None:
        with self._lock:
            self._drawn = self._clock()
            stream = sys.stderr if self.terminal else sys.stdout
            stream.write(text)
            stream.flush()

    def _state(self, done: int, total: int, unit: str) -> str:
        """Return the number of finished items and the time left; without items, the time passed."""
        passed = self._clock() - self._begun
        if total and done > self._first:
            left = passed / (done - self._first) * max(0, total - done)
            return f": {done} of {total} {unit}, {_duration(left)} left"
        if done:
            return f": {done} {unit}, {_duration(passed)}"
        return f": {_duration(passed)}" if passed >= 1 else ""


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
