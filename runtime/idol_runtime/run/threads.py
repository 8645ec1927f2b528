"""Threads for the stages before and after the network: a prefetch thread and a writer thread, joined by short queues.

Order is kept, a full queue makes its producer wait, and an exception in a thread is raised in the caller.

    with prefetch(source) as frames, WriterThread(write) as writer:
        for frame in frames:
            writer.submit((frame, network(frame)))
"""

import contextlib
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Generic, TypeVar

__all__ = ["JOIN_TIMEOUT_S", "QUEUE_DEPTH", "BoundedQueue", "WriterThread", "prefetch"]

# Enough to even out frames that take longer; a higher value only makes each frame older.
QUEUE_DEPTH = 2
# Time to wait for a prefetch thread that may itself wait for a camera that has stopped.
JOIN_TIMEOUT_S = 2.0

T = TypeVar("T")


class BoundedQueue(Generic[T]):
    """A bounded queue between two threads.

    The producer ends it with `finish`, and may pass an exception that the consumer raises after the last item. The
    consumer ends it with `cancel`.

    Args:
        drop_oldest: hold one item, and drop it when the next one comes; False: hold `QUEUE_DEPTH` items, and make the
            producer wait for room.
        changed: condition that is notified of every change; pass the same one to several queues to wait for any of
            them.

    Attributes:
        dropped: number of items dropped so far.
    """

    def __init__(self, drop_oldest: bool = False, changed: threading.Condition | None = None) -> None:
        self._items: deque[T] = deque()
        self._depth = 1 if drop_oldest else QUEUE_DEPTH
        self._drop_oldest = drop_oldest
        self._changed = changed or threading.Condition()
        self._finished = False
        self._cancelled = False
        self.dropped = 0
        self._error: BaseException | None = None

    def put(self, item: T) -> bool:
        """Append an item, once there is room; return False if the queue is cancelled."""
        with self._changed:
            while len(self._items) == self._depth and not self._cancelled:
                if self._drop_oldest:
                    self._items.popleft()
                    self.dropped += 1
                else:
                    self._changed.wait()
            if not self._cancelled:
                self._items.append(item)
            self._changed.notify_all()
            return not self._cancelled

    def finish(self, error: BaseException | None = None) -> None:
        """End the queue after the items in it; the consumer then raises `error`, if any."""
        with self._changed:
            self._finished, self._error = True, error
            self._changed.notify_all()

    def cancel(self) -> None:
        """Drop all items and accept no more."""
        with self._changed:
            self._cancelled = True
            self._items.clear()
            self._changed.notify_all()

    @property
    def ready(self) -> bool:
        """True if `next` would not wait."""
        return bool(self._items) or self._finished or self._cancelled

    def __iter__(self) -> Iterator[T]:
        return self

    def __next__(self) -> T:
        """Return the next item; after the last one, raise the producer's exception, if any."""
        with self._changed:
            self._changed.wait_for(lambda: self.ready)
            if self._items:
                item = self._items.popleft()
                self._changed.notify_all()
                return item
        raise self._error or StopIteration


@contextlib.contextmanager
def prefetch(
    items: Iterable[T], *, drop_oldest: bool = False, changed: threading.Condition | None = None
) -> Iterator[BoundedQueue[T]]:
    """Iterate in a thread, up to `QUEUE_DEPTH` items before they are needed.

    Leaving the context ends the thread after its current item; a thread that does not end within `JOIN_TIMEOUT_S` is
    left running.

    Args:
        items: items to iterate; an exception is raised in the consumer, after the items before it.
        drop_oldest: hold only the newest item and drop items that were not consumed in time.
        changed: condition of the queue, see `BoundedQueue`.
    """
    queue: BoundedQueue[T] = BoundedQueue(drop_oldest, changed)

    def produce() -> None:
        try:
            for item in items:
                if not queue.put(item):
                    break
        except BaseException as error:  # noqa: BLE001 - raised in the consumer
            queue.finish(error)
        else:
            queue.finish()

    thread = threading.Thread(target=produce, name="idol-prefetch", daemon=True)
    thread.start()
    try:
        yield queue
    finally:
        queue.cancel()
        thread.join(JOIN_TIMEOUT_S)


class WriterThread(Generic[T]):
    """A thread that calls a function for each submitted item, with at most `QUEUE_DEPTH` items waiting.

    Leaving the context waits until all submitted items are done, also after an error; a second Ctrl-C drops the rest.
    """

    def __init__(self, work: Callable[[T], None]) -> None:
        self._queue: BoundedQueue[T] = BoundedQueue()
        self._work = work
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._consume, name="idol-writer", daemon=True)

    def __enter__(self) -> "WriterThread[T]":
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._queue.finish()
        try:
            self._thread.join()
        except KeyboardInterrupt:
            self._queue.cancel()
            self._thread.join()
            raise
        if kind is None and self._error is not None:
            raise self._error

    def submit(self, item: T) -> None:
        """Queue one item, waiting while the queue is full.

        Raises:
            BaseException: the function raised this exception for an earlier item.
        """
        if not self._queue.put(item):
            assert self._error is not None
            raise self._error

    def _consume(self) -> None:
        try:
            for item in self._queue:
                self._work(item)
        except BaseException as error:  # noqa: BLE001 - raised in the caller
            self._error = error
            self._queue.cancel()
