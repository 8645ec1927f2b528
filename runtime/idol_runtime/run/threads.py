"""Decoding, network and writing at the same time: a stage in a thread of its own, behind a short queue.

Order is kept, a full queue makes its producer wait, and what a thread raises, its caller raises. Two stages are
enough: what comes before the network, and what comes after.

    with ahead(source) as frames, Behind(write) as behind:
        for frame in frames:
            behind.submit(frame, network(frame))
"""

import contextlib
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import Generic, TypeVar

__all__ = ["DEPTH", "PATIENCE_S", "Behind", "Handover", "ahead"]

# Enough to even out frames that take longer; more would only make each one older.
DEPTH = 2
# How long a thread is waited for that is asked to end while it waits itself, for a camera that has stopped.
PATIENCE_S = 2.0

T = TypeVar("T")


class Handover(Generic[T]):
    """A bounded queue that either end may close, and that carries the exception its producer ended with.

    Args:
        depth: how many items it holds.
        newest: a full queue loses its oldest item, instead of making the producer wait.
        changed: notified of everything; whoever waits for one of several queues gives the same to all.
    """

    def __init__(self, depth: int, newest: bool = False, changed: threading.Condition | None = None) -> None:
        self._items: deque[T] = deque()
        self._depth = depth
        self._newest = newest
        self._changed = changed or threading.Condition()
        self._done = False
        self._abandoned = False
        self._error: BaseException | None = None

    def put(self, item: T) -> bool:
        """Append, once there is room; False when nobody will take it."""
        with self._changed:
            while len(self._items) == self._depth and not self._abandoned:
                if self._newest:
                    self._items.popleft()
                else:
                    self._changed.wait()
            if not self._abandoned:
                self._items.append(item)
            self._changed.notify_all()
            return not self._abandoned

    def finish(self, error: BaseException | None = None) -> None:
        """Nothing more will come."""
        with self._changed:
            self._done, self._error = True, error
            self._changed.notify_all()

    def abandon(self) -> None:
        """Nothing more will be taken; what is held is let go."""
        with self._changed:
            self._abandoned = True
            self._items.clear()
            self._changed.notify_all()

    @property
    def ready(self) -> bool:
        """Whether `next` has something to give, or to raise, without waiting."""
        return bool(self._items) or self._done or self._abandoned

    def __iter__(self) -> Iterator[T]:
        return self

    def __next__(self) -> T:
        """The next item; after the last, the producer's exception if there is one."""
        with self._changed:
            self._changed.wait_for(lambda: self.ready)
            if self._items:
                item = self._items.popleft()
                self._changed.notify_all()
                return item
        raise self._error or StopIteration


@contextlib.contextmanager
def ahead(
    items: Iterable[T], *, newest: bool = False, changed: threading.Condition | None = None
) -> Iterator[Handover[T]]:
    """Iterate in a thread of its own, up to `DEPTH` items ahead of whoever takes them.

    Leaving the context ends the thread after the item that it is at, or leaves it behind after `PATIENCE_S`.

    Args:
        items: what to iterate; its exception is raised to the taker, after the items before it.
        newest: hold only the newest item; those that nobody took in time are lost.
        changed: as of `Handover`.
    """
    queue: Handover[T] = Handover(1 if newest else DEPTH, newest, changed)

    def produce() -> None:
        try:
            for item in items:
                if not queue.put(item):
                    break
        except BaseException as error:  # noqa: BLE001 - raised by the taker
            queue.finish(error)
        else:
            queue.finish()

    thread = threading.Thread(target=produce, name="idol-ahead", daemon=True)
    thread.start()
    try:
        yield queue
    finally:
        queue.abandon()
        thread.join(PATIENCE_S)


class Behind(Generic[T]):
    """Calls a function for each item in a thread of its own, at most `DEPTH` items behind.

    Leaving the context waits until all that was submitted is done, whatever ended it; a second Ctrl-C lets the rest go.
    """

    def __init__(self, work: Callable[[T], None]) -> None:
        self._queue: Handover[T] = Handover(DEPTH)
        self._work = work
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._consume, name="idol-behind", daemon=True)

    def __enter__(self) -> "Behind[T]":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._queue.finish()
        try:
            self._thread.join()
        except KeyboardInterrupt:
            self._queue.abandon()
            self._thread.join()
            raise
        if error is None and self._error is not None:
            raise self._error

    def submit(self, item: T) -> None:
        """Hand over one item, waiting while the queue is full.

        Raises:
            BaseException: what the function raised for an item before.
        """
        if not self._queue.put(item):
            assert self._error is not None
            raise self._error

    def _consume(self) -> None:
        try:
            for item in self._queue:
                self._work(item)
        except BaseException as error:  # noqa: BLE001 - raised by whoever submits
            self._error = error
            self._queue.abandon()
