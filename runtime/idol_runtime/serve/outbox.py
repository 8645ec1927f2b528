"""Messages that wait for the server process, in bounded queues that drop instead of making anybody wait."""

import threading
import time
from collections import deque
from collections.abc import Callable

from idol_runtime.run.observer import FrameReport
from idol_runtime.serve.messages import MAX_EVENTS, EventMessage, FrameMessage, Picture, Reply

__all__ = ["Outbox"]

# Largest number of waiting frames, of a kilobyte each without their pictures.
_MAX_FRAMES = 300
# Shortest time between two pictures of a stream.
_PICTURE_S = 0.1


class _Waiting:
    """A frame that waits, with the report to draw it from if its picture is to be sent."""

    def __init__(self, message: FrameMessage, report: FrameReport | None) -> None:
        self.message, self.report = message, report


class Outbox:
    """Two queues: of events and replies, which go first, and of frames.

    A full queue drops its oldest message. A picture is dropped when the next one of its stream is due before it was
    sent, so that at most one frame of each watched stream is held in memory.

    Attributes:
        unsent: number of messages and pictures dropped.
    """

    def __init__(self, draw: Callable[[FrameReport], Picture]) -> None:
        """Start with empty queues.

        Args:
            draw: function that makes the picture of a frame, called in the thread that sends.
        """
        self._draw = draw
        self._changed = threading.Condition()
        self._events: deque[EventMessage | Reply] = deque()
        self._frames: deque[_Waiting] = deque()
        self._due: dict[str, float] = {}
        self._watched: frozenset[str] = frozenset()
        self._finished = False
        self.unsent = 0

    def watch(self, streams: frozenset[str]) -> None:
        """Add the pictures of these streams to their frames from now on, and of no other."""
        with self._changed:
            self._watched = streams
            self._due = {name: due for name, due in self._due.items() if name in streams}

    def put(self, message: EventMessage | Reply) -> None:
        """Append an event or a reply."""
        with self._changed:
            if len(self._events) >= MAX_EVENTS:
                self._events.popleft()
                self.unsent += 1
            self._events.append(message)
            self._changed.notify()

    def put_frame(self, message: FrameMessage, report: FrameReport) -> None:
        """Append a frame, with its picture if one is due."""
        stream, now = message.stream, time.monotonic()
        with self._changed:
            due = self._due.get(stream, now)
            pictured = stream in self._watched and now >= due
            if pictured:
                self._due[stream] = max(due, now - _PICTURE_S) + _PICTURE_S
                for waiting in self._frames:
                    if waiting.report is not None and waiting.message.stream == stream:
                        waiting.report, self.unsent = None, self.unsent + 1
            if len(self._frames) >= _MAX_FRAMES:
                self.unsent += 1 + (self._frames.popleft().report is not None)
            self._frames.append(_Waiting(message, report if pictured else None))
            self._changed.notify()

    def get(self, timeout_s: float) -> EventMessage | Reply | FrameMessage | None:
        """Wait for the next message and remove it; None if there is none in time, or after `finish`."""
        with self._changed:
            self._changed.wait_for(lambda: self._events or self._frames or self._finished, timeout_s)
            if self._events:
                return self._events.popleft()
            if not self._frames:
                return None
            waiting = self._frames.popleft()
        if waiting.report is not None:
            waiting.message.picture = self._draw(waiting.report)
        return waiting.message

    def clear(self) -> None:
        """Drop everything, which a new server gets in its first message or not at all; watch no stream."""
        with self._changed:
            self.unsent += len(self._frames)
            self._frames.clear()
            self._events.clear()
            self._watched = frozenset()

    def finish(self) -> None:
        """Let `get` wait no more."""
        with self._changed:
            self._finished = True
            self._changed.notify_all()
