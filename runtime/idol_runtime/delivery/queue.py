"""A bounded queue of events that wait for a receiver: another machine, or a file whose disk may hang.

A thread sends the events in their order, in batches. An event that may not have arrived is sent again with the same
`id`. The run never waits: when the queue is full, its oldest event is dropped and counted.
"""

import random
import secrets
import threading
import time
from collections import deque
from collections.abc import Sequence
from itertools import count
from typing import Any, Protocol

import msgspec

from idol_runtime.errors import OutputError
from idol_runtime.events import Event, EventKind, Tell, guarded

__all__ = ["CAPACITY", "FLUSH_S", "Delivery", "EventQueue", "RejectedError", "Sender"]

# Events that wait at most, and those that are sent together.
CAPACITY, BATCH = 1000, 100
# Longest wait between two attempts to send: the first wait is a second, the next ones double.
_LONGEST_WAIT_S = 30.0
# Time between two looks at a connection without events.
_IDLE_S = 5.0
# Time for the events that wait at the end of a run.
FLUSH_S = 5.0


class RejectedError(OutputError):
    """Events that the receiver rejects; sending them again has no effect."""


class Delivery(msgspec.Struct, frozen=True):
    """An event with its identity, which stays the same when it is sent again."""

    event: Event
    id: str

    def encode(self) -> dict[str, Any]:
        """Return the event as an object of JSON values."""
        return {**msgspec.to_builtins(self.event), "id": self.id}


class Sender(Protocol):
    """A connection to a receiver; its methods are called in the thread of the queue.

    Attributes:
        name: address of the receiver without secrets.
    """

    name: str

    def send(self, batch: Sequence[Delivery]) -> None:
        """Send events and wait until they have arrived; without events, keep the connection open.

        Raises:
            RejectedError: the receiver rejects them.
            OutputError: they may not have arrived; the message does not repeat the name.
        """

    def close(self) -> None:
        """Close the connection."""


class EventQueue:
    """A function that accepts events and delivers them in a thread."""

    def __init__(
        self, sender: Sender, tell: Tell, *, capacity: int = CAPACITY, batch: int = BATCH, wait_s: float = 1.0
    ) -> None:
        """Start the thread.

        Args:
            sender: connection to the receiver.
            tell: function that receives the events of the delivery itself: `output_stopped` and `output_back`;
                an error of it is logged.
            capacity: number of events that wait at most.
            batch: number of events that are sent together at most.
            wait_s: longest first wait after a failure in seconds.
        """
        self.name = sender.name
        self._sender, self._tell = sender, guarded(tell)
        self._capacity, self._batch, self._wait_s = capacity, batch, wait_s
        self._prefix, self._numbers = secrets.token_hex(6), count()
        self._items: deque[Delivery] = deque()
        self._changed = threading.Condition()
        self._deadline: float | None = None
        self._failing, self._lost, self._sending = False, 0, 0
        self._thread = threading.Thread(target=self._work, name="idol-delivery", daemon=True)
        self._thread.start()

    def __call__(self, event: Event) -> None:
        """Queue an event; never waits."""
        with self._changed:
            self._items.append(Delivery(event, f"{self._prefix}-{next(self._numbers)}"))
            self._limit()
            self._changed.notify_all()

    def finish(self, seconds: float) -> None:
        """Give the queue so many seconds to send the events that wait; returns at once."""
        with self._changed:
            self._deadline = time.monotonic() + seconds
            self._changed.notify_all()

    def join(self) -> int:
        """Wait for the end after `finish`, and return the number of events that were not delivered."""
        assert self._deadline is not None
        # A call that hangs is left alone.
        self._thread.join(max(0.0, self._deadline - time.monotonic()) + 0.5)
        with self._changed:
            return len(self._items) + self._sending + self._lost

    def _limit(self) -> None:
        """Drop the oldest events beyond the capacity."""
        while len(self._items) > self._capacity:
            self._items.popleft()
            self._lost += 1

    def _work(self) -> None:
        failures = 0
        while self._wait(failures):
            with self._changed:
                batch = [self._items.popleft() for _ in range(min(self._batch, len(self._items)))]
                self._sending = len(batch)
            failures = 0 if self._deliver(batch) else failures + 1
        self._sender.close()

    def _wait(self, failures: int) -> bool:
        """Wait for events, or after failures for the next attempt; return False at the end."""
        with self._changed:
            if failures:
                pause_s = min(2.0 ** min(failures - 1, 9) * self._wait_s, _LONGEST_WAIT_S)
                pause_s *= random.uniform(0.5, 1)  # noqa: S311
                if self._deadline is None:  # `finish` ends this wait
                    self._changed.wait_for(lambda: self._deadline is not None, pause_s)
                else:
                    time.sleep(max(0.0, min(self._deadline - time.monotonic(), pause_s)))
            else:
                self._changed.wait_for(lambda: self._items or self._deadline is not None, _IDLE_S)
            return self._deadline is None or (bool(self._items) and time.monotonic() < self._deadline)

    def _deliver(self, batch: list[Delivery]) -> bool:
        """Send events; return False if they must be sent again."""
        problem: Exception | None = None
        try:
            self._sender.send(batch)
        except Exception as error:  # noqa: BLE001 - libraries of connections raise any exception type
            problem = error
        again = problem is not None and not isinstance(problem, RejectedError)
        with self._changed:
            if again:
                self._items.extendleft(reversed(batch))
                self._limit()
            elif problem is not None:
                self._lost += len(batch)
            self._sending = 0
        if problem is not None and not self._failing:
            self._failing = True
            wait = "; events wait, and are sent again" if again else "; events are lost"
            # The message of another error may have a part of the URL.
            text = str(problem) if isinstance(problem, OutputError) else f"fails: {type(problem).__name__}"
            self._event("output_stopped", text + wait)
        elif problem is None and batch and self._failing:
            with self._changed:
                lost, self._lost = self._lost, 0
            self._failing = False
            self._event("output_back", f"events are delivered again; events not delivered: {lost}", lost=lost)
        return not again

    def _event(self, kind: EventKind, message: str, **values: int) -> None:
        self._tell(Event(kind, self.name, message, {"output": self.name, **values}))
