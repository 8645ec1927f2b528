"""Prefetch and writer threads: order, queue depth, dropped items, and where exceptions are raised."""

import threading
import time
from collections.abc import Iterable, Iterator

import pytest

from idol_runtime.run.threads import QUEUE_DEPTH, BoundedQueue, WriterThread, prefetch
from samples.waiting import until

pytestmark = pytest.mark.usefixtures("no_thread_is_left")


def wait_until(done: threading.Event) -> None:
    assert done.wait(60)


def slowly(item: int) -> int:
    time.sleep(0.002)
    return item


def started(items: Iterable[int], queue: BoundedQueue[int] | None = None) -> BoundedQueue[int]:
    queue = BoundedQueue() if queue is None else queue
    prefetch(items, queue)
    return queue


def test_order_is_kept_through_both_stages() -> None:
    written: list[int] = []
    writer = WriterThread(written.append)
    for item in started(range(100)):
        writer.submit(item)
    writer.finish()
    writer.join(60)
    assert (written, writer.done, writer.error) == (list(range(100)), True, None)


def test_prefetch_reads_no_more_than_the_queue_depth() -> None:
    made = []
    full = threading.Event()

    def items() -> Iterator[int]:
        for i in range(50):
            made.append(i)
            if len(made) == QUEUE_DEPTH + 1:
                full.set()
            yield i

    queue: BoundedQueue[int] = BoundedQueue()
    thread = prefetch(items(), queue)
    wait_until(full)
    time.sleep(0.05)
    assert len(made) == QUEUE_DEPTH + 1, "the items in the queue, and one that waits for room"
    assert next(queue) == 0
    queue.cancel()
    thread.join(60)


def test_an_exception_comes_after_the_items_before_it() -> None:
    def items() -> Iterator[int]:
        yield from range(5)
        raise ValueError("the sixth is broken")

    taken: list[int] = []
    with pytest.raises(ValueError, match="the sixth"):
        taken.extend(map(slowly, started(items())))
    assert taken == list(range(5))


def test_the_newest_item_is_taken_and_the_older_ones_are_counted() -> None:
    shown, go_on = threading.Event(), threading.Event()

    def items() -> Iterator[int]:
        yield from range(10)
        shown.set()
        wait_until(go_on)
        yield 10

    queue = started(items(), BoundedQueue(1, drop_oldest=lambda: True))
    wait_until(shown)
    assert (next(queue), queue.dropped) == (9, 9)
    go_on.set()
    assert (list(queue), queue.dropped) == ([10], 9)


def test_expired_items_are_dropped_when_their_turn_comes() -> None:
    expired: set[int] = set()
    queue: BoundedQueue[int] = BoundedQueue(4, drop_oldest=lambda: True, expired=expired.__contains__)
    assert all(queue.put(item) for item in range(6))
    assert queue.dropped == 2, "beyond the depth"
    expired |= {2, 3, 5}
    assert queue.ready
    assert (next(queue), queue.dropped) == (4, 4)
    assert not queue.ready, "the last item has expired"
    assert queue.dropped == 5


def test_a_writer_that_fails_drops_what_follows_and_tells_its_owner() -> None:
    changed, closed, written = threading.Condition(), [], []

    def write(item: int) -> None:
        if item == 3:
            raise OSError("the disk is full")
        written.append(item)

    writer = WriterThread(write, closed.append, changed)
    for item in range(1000):
        writer.submit(item)
    with changed:
        assert changed.wait_for(lambda: writer.done, 60), "the condition is notified"
    writer.join(60)
    assert (written, str(writer.error), closed) == ([0, 1, 2], "the disk is full", [writer.error])


def test_an_error_in_closing_is_reported_unless_there_was_one_before() -> None:
    def close(error: BaseException | None) -> None:
        raise OSError("the disk is full")

    writer = WriterThread[int](slowly, close)
    writer.submit(0)
    writer.finish()
    writer.join(60)
    assert str(writer.error) == "the disk is full"


@pytest.mark.parametrize("reason", [None, RuntimeError("lost")])
def test_what_was_submitted_before_the_end_is_written(reason: Exception | None) -> None:
    written: list[int | BaseException | None] = []
    writer = WriterThread(lambda item: written.append(slowly(item)), written.append)
    for item in range(QUEUE_DEPTH):
        writer.submit(item)
    writer.finish(reason)
    writer.join(60)
    assert written == [*range(QUEUE_DEPTH), reason]


def test_a_slow_writer_bounds_what_waits() -> None:
    done, go_on = [], threading.Event()

    def write(item: int) -> None:
        wait_until(go_on)
        done.append(item)

    writer = WriterThread(write)
    for item in range(QUEUE_DEPTH):
        writer.submit(item)
    late = threading.Thread(target=lambda: [writer.submit(item) for item in (8, 9)])
    late.start()
    late.join(0.05)
    assert late.is_alive(), "one item is being written, and the queue is full"
    until(lambda: writer.full)
    go_on.set()
    late.join(60)
    writer.finish()
    writer.join(60)
    assert done == [*range(QUEUE_DEPTH), 8, 9]


def test_a_writer_that_is_cancelled_drops_what_waits() -> None:
    done, go_on = [], threading.Event()
    writer = WriterThread(lambda item: done.append(item) or wait_until(go_on))
    writer.submit(0)
    while not done:
        time.sleep(0.001)
    writer.submit(1)
    writer.cancel()
    go_on.set()
    writer.join(60)
    assert (done, writer.done) == ([0], True)
