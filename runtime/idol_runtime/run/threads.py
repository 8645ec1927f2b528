"""Threads for the stages before and after the network: a prefetch thread and a writer thread, joined by short queues.

Order is kept, and a full queue makes its producer wait or drops its oldest item. All queues of a run share one
condition, on which the thread of the network waits for any of them.
"""

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Generic, TypeVar

__all__ = ["JOIN_TIMEOUT_S", "QUEUE_DEPTH", "BoundedQueue", "WriterThread", "prefetch"]

# Enough to even out frames that take longer; a higher value only makes each frame older.
QUEUE_DEPTH = 2
# Time to wait for a thread that may itself wait for a camera or a disk that has stopped.
JOIN_TIMEOUT_S = 2.0

T = TypeVar("T")


class BoundedQueue(Generic[T]):
    """A bounded queue between two threads.

    The producer ends it with `finish`, and may pass an exception that the consumer raises after the last item. The
    consumer ends it with `cancel`.

    Args:
        depth: maximum number of items.
        drop_oldest: returns True where a full queue drops its oldest item for a new one, and False where the producer
            waits for room.
        expired: returns True for an item that is to be dropped when its turn comes; None keeps all.
        changed: condition that is notified of every change; pass the same one to several queues to wait for any of
            them.

    Attributes:
        dropped: number of items dropped so far.
    """

    def __init__(
        self,
        depth: int = QUEUE_DEPTH,
        *,
        drop_oldest: Callable[[], bool] = lambda: False,
        expired: Callable[[T], bool] | None = None,
        changed: threading.Condition | None = None,
    ) -> None:
        self._items: deque[T] = deque()
        self._depth, self._drop_oldest, self._expired = depth, drop_oldest, expired
        self._changed = changed or threading.Condition()
        self._finished = False
        self._cancelled = False
        self.dropped = 0
        self._error: BaseException | None = None

    def put(self, item: T) -> bool:
        """Append an item, once there is room; return False if the queue is cancelled."""
        with self._changed:
            while self.full and not self._cancelled:
                if self._drop_oldest():
                    self._drop()
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
    def full(self) -> bool:
        """True if `put` would wait or drop an item."""
        return len(self._items) >= self._depth

    @property
    def ready(self) -> bool:
        """True if `next` would not wait; drops expired items."""
        with self._changed:
            while self._items and self._expired is not None and self._expired(self._items[0]):
                self._drop()
            return bool(self._items) or self._finished or self._cancelled

    def __iter__(self) -> Iterator[T]:
        return self

    def __next__(self) -> T:
        """Return the next item; after the last one, raise the producer's exception, if any."""
        with self._changed:
            # An item that expires after `ready` has returned True is returned, so that `next` does not wait.
            if not self._items:
                self._changed.wait_for(lambda: self.ready)
            if self._items:
                item = self._items.popleft()
                self._changed.notify_all()
                return item
        raise self._error or StopIteration

    def _drop(self) -> None:
        self._items.popleft()
        self.dropped += 1


def prefetch(items: Iterable[T], queue: BoundedQueue[T]) -> threading.Thread:
    """Start a thread that iterates over items and puts them into a queue, and return it.

    An exception is raised in the consumer, after the items before it. The thread ends after its current item when the
    queue is cancelled.
    """

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
    return thread


class WriterThread(Generic[T]):
    """A thread that calls a function for each submitted item, and another one at its end.

    An error of a call drops the items after it.

    Args:
        work: function of one item.
        close: function that is called last, with the error that ended the work or was given to `finish`, if any.
        changed: condition that is notified of every change; see `BoundedQueue`.

    Attributes:
        error: first error of a call; None if there was none.
        done: True once the thread has called `close`.
    """

    def __init__(
        self,
        work: Callable[[T], None],
        close: Callable[[BaseException | None], None] = lambda _: None,
        changed: threading.Condition | None = None,
    ) -> None:
        self._changed = changed or threading.Condition()
        self._queue: BoundedQueue[T] = BoundedQueue(changed=self._changed)
        self._work, self._close = work, close
        self._reason: BaseException | None = None
        self.error: BaseException | None = None
        self.done = False
        self._thread = threading.Thread(target=self._consume, name="idol-writer", daemon=True)
        self._thread.start()

    @property
    def full(self) -> bool:
        """True if `submit` would wait."""
        return self._queue.full

    def submit(self, item: T) -> None:
        """Queue one item, waiting while the queue is full; after an error, the item is dropped."""
        self._queue.put(item)

    def finish(self, reason: BaseException | None = None) -> None:
        """End the thread after the submitted items, without waiting for it.

        Args:
            reason: error for which the work ends; None for a normal end.
        """
        self._reason = reason
        self._queue.finish()

    def cancel(self) -> None:
        """End the thread after its current item."""
        self._queue.cancel()

    def join(self, timeout_s: float | None = None) -> None:
        """Wait for the end of the thread."""
        self._thread.join(timeout_s)

    def _consume(self) -> None:
        try:
            for item in self._queue:
                self._work(item)
        except BaseException as error:  # noqa: BLE001 - reported by the owner
            self.error = error
            self._queue.cancel()
        try:
            self._close(self.error or self._reason)
        except BaseException as error:  # noqa: BLE001 - reported by the owner
            self.error = self.error or error
        with self._changed:
            self.done = True
            self._changed.notify_all()
