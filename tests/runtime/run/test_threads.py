"""Prefetch and writer threads: order, queue depth, dropped items, and where exceptions are raised."""

import threading
import time
from collections.abc import Iterator

import pytest

from idol_runtime.run import threads
from idol_runtime.run.threads import QUEUE_DEPTH, BoundedQueue, WriterThread, prefetch


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> Iterator[None]:
    yield
    assert [thread.name for thread in threading.enumerate() if thread.name.startswith("idol-")] == []


def wait_until(done: threading.Event) -> None:
    assert done.wait(10)


def slowly(item: int) -> int:
    time.sleep(0.002)
    return item


def test_order_is_kept_through_both_stages() -> None:
    written: list[int] = []
    with WriterThread(written.append) as writer, prefetch(range(100)) as items:
        for item in items:
            writer.submit(item)
    assert written == list(range(100))


def test_prefetch_reads_no_more_than_the_queue_depth() -> None:
    made = []
    full = threading.Event()

    def items() -> Iterator[int]:
        for i in range(50):
            made.append(i)
            if len(made) == QUEUE_DEPTH + 1:
                full.set()
            yield i

    with prefetch(items()) as taken:
        wait_until(full)
        time.sleep(0.05)
        assert len(made) == QUEUE_DEPTH + 1, "the items in the queue, and one that waits for room"
        assert next(taken) == 0


def test_an_exception_comes_after_the_items_before_it() -> None:
    def items() -> Iterator[int]:
        yield from range(5)
        raise ValueError("the sixth is broken")

    taken: list[int] = []
    with pytest.raises(ValueError, match="the sixth"), prefetch(items()) as frames:
        taken.extend(map(slowly, frames))
    assert taken == list(range(5))


def test_the_newest_item_is_taken_and_the_older_ones_are_lost() -> None:
    shown, go_on = threading.Event(), threading.Event()

    def items() -> Iterator[int]:
        yield from range(10)
        shown.set()
        wait_until(go_on)
        yield 10

    with prefetch(items(), drop_oldest=True) as taken:
        wait_until(shown)
        assert next(taken) == 9
        go_on.set()
        assert list(taken) == [10]


def test_a_writer_that_fails_stops_whoever_submits() -> None:
    def write(item: int) -> None:
        if item == 3:
            raise OSError("the disk is full")

    submitted: list[int] = []
    with pytest.raises(OSError, match="disk is full"), WriterThread(write) as writer:
        submitted.extend(writer.submit(slowly(item)) or item for item in range(1000))
    assert len(submitted) < 999


def test_a_writer_that_fails_at_the_last_item_raises_too() -> None:
    def write(item: int) -> None:
        time.sleep(0.05)
        raise OSError("the disk is full")

    with pytest.raises(OSError, match="disk is full"), WriterThread(write) as writer:
        writer.submit(0)


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_what_was_submitted_before_an_interruption_is_written(error: type[BaseException]) -> None:
    written: list[int] = []

    def write(item: int) -> None:
        time.sleep(0.02)
        written.append(item)

    def submitted() -> Iterator[int]:
        yield from range(QUEUE_DEPTH + 1)
        raise error

    with pytest.raises(error), WriterThread(write) as writer:
        list(map(writer.submit, submitted()))
    assert written == list(range(QUEUE_DEPTH + 1))


def test_a_slow_writer_bounds_what_waits() -> None:
    done, go_on = [], threading.Event()

    def write(item: int) -> None:
        wait_until(go_on)
        done.append(item)

    with WriterThread(write) as writer:
        for item in range(QUEUE_DEPTH):
            writer.submit(item)
        late = threading.Thread(target=lambda: [writer.submit(item) for item in (8, 9)])
        late.start()
        late.join(0.05)
        assert late.is_alive(), "one item is being written, and the queue is full"
        go_on.set()
        late.join(10)
    assert done == [*range(QUEUE_DEPTH), 8, 9]


def test_a_thread_that_hangs_is_left_running(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "JOIN_TIMEOUT_S", 0.05)
    go_on = threading.Event()

    def items() -> Iterator[int]:
        yield 0
        wait_until(go_on)

    with prefetch(items()) as taken:
        assert next(taken) == 0
    (thread,) = (thread for thread in threading.enumerate() if thread.name == "idol-prefetch")
    go_on.set()
    thread.join(10)


def test_dropped_items_are_counted() -> None:
    queue: BoundedQueue[int] = BoundedQueue(drop_oldest=True)
    assert all(queue.put(item) for item in range(5))
    assert (next(queue), queue.dropped) == (4, 4)
    queue.put(5)
    assert (next(queue), queue.dropped) == (5, 4)
