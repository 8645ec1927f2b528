"""The queue of events: order, repetition, limits and its end, with receivers that fail."""

import threading
import time
from collections.abc import Sequence

from idol_runtime.delivery.queue import Delivery, EventQueue, RejectedError
from idol_runtime.errors import OutputError
from idol_runtime.events import Event
from samples.events import check_events
from samples.waiting import LIMIT_S, until


class Receiver:
    """A receiver that fails as `problem` says; `received` has the messages and ids of what arrived."""

    name = "test://host"

    def __init__(self, problem: Exception | None = None) -> None:
        self.problem = problem
        self.received: list[tuple[str, str]] = []
        self.tried: list[tuple[str, str]] = []
        self.go_on = threading.Event()
        self.go_on.set()
        self.closed = False

    def send(self, batch: Sequence[Delivery]) -> None:
        self.go_on.wait(LIMIT_S)
        items = [(delivery.event.message, delivery.id) for delivery in batch]
        self.tried += items
        if self.problem is not None:
            raise self.problem
        self.received += items

    def close(self) -> None:
        self.closed = True


def put(queue: EventQueue, *numbers: int) -> None:
    for number in numbers:
        queue(Event("lost", "door", str(number)))


def test_events_that_failed_are_sent_again_in_order() -> None:
    receiver, told = Receiver(OutputError("answers 503; check the receiver")), list[Event]()
    queue = EventQueue(receiver, told.append, wait_s=0.01)
    put(queue, *range(250))
    until(lambda: len(receiver.tried) > 300)
    receiver.problem = ValueError("of a library")  # fails as well
    tried = len(receiver.tried)
    until(lambda: len(receiver.tried) > tried)
    put(queue, *range(250, 300))
    receiver.problem = None
    queue.finish(60)
    assert queue.join() == 0
    assert receiver.closed
    assert [message for message, _ in receiver.received] == [str(number) for number in range(300)]
    assert len({identity for _, identity in receiver.received}) == 300
    assert set(receiver.tried) == set(receiver.received), "the same event has the same id"
    assert check_events(told) == {"output_stopped", "output_back"}
    stopped, back = told
    assert stopped.message == "answers 503; check the receiver; events wait, and are sent again"
    assert (stopped.source, back.values) == ("test://host", {"output": "test://host", "lost": 0})


def test_the_oldest_events_beyond_the_limit_are_dropped_and_counted() -> None:
    receiver, told = Receiver(ValueError("https://host/s3cret")), list[Event]()
    queue = EventQueue(receiver, told.append, capacity=50, wait_s=0.01)
    receiver.go_on.clear()
    start = time.monotonic()
    put(queue, *range(10_000))
    assert time.monotonic() - start < 60, "the run does not wait"
    receiver.go_on.set()
    until(lambda: told)
    receiver.problem = None
    until(lambda: len(told) == 2)
    queue.finish(60)
    assert queue.join() == 0
    assert [message for message, _ in receiver.received] == [str(number) for number in range(9950, 10_000)]
    assert told[0].message == "fails: ValueError; events wait, and are sent again"
    assert told[1].values["lost"] == 9950


def test_rejected_events_are_not_sent_again() -> None:
    receiver, told = Receiver(RejectedError("answers 404 Not Found; check the URL")), list[Event]()
    queue = EventQueue(receiver, told.append)
    put(queue, 1, 2, 3)
    until(lambda: len(receiver.tried) == 3)
    put(queue, 4)
    until(lambda: len(receiver.tried) == 4)
    receiver.problem = None
    put(queue, 5)
    queue.finish(60)
    assert queue.join() == 0
    assert [message for message, _ in receiver.received] == ["5"]
    assert [event.kind for event in told] == ["output_stopped", "output_back"]
    assert told[0].message == "answers 404 Not Found; check the URL; events are lost"
    assert told[1].values["lost"] == 4


def test_an_error_of_the_function_for_events_ends_no_delivery() -> None:
    def fail(event: Event) -> None:
        raise BrokenPipeError(event.kind)

    receiver = Receiver(OutputError("down"))
    queue = EventQueue(receiver, fail, wait_s=0.01)
    put(queue, 1)
    until(lambda: len(receiver.tried) > 1)
    receiver.problem = None
    queue.finish(60)
    assert queue.join() == 0
    assert len(receiver.received) == 1


def test_the_end_of_a_run_waits_shortly() -> None:
    """For a receiver that fails and for one that hangs; what was not delivered is counted."""
    failing, hanging = Receiver(OutputError("down")), Receiver()
    hanging.go_on.clear()
    queues = [EventQueue(receiver, lambda _: None, wait_s=0.05) for receiver in (failing, hanging)]
    for queue in queues:
        put(queue, *range(120))
    until(lambda: failing.tried and queues[1]._sending)
    start = time.monotonic()
    for queue in queues:
        queue.finish(0.3)
    assert [queue.join() for queue in queues] == [120, 120]
    assert time.monotonic() - start < 15
    hanging.go_on.set()
