import os
import signal
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from idol_runtime.signals import STOP_SIGNALS, handling, interruptible


def test_what_was_before_is_again() -> None:
    came: list[int] = []
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]

    def come() -> None:
        with handling(lambda number, _: came.append(number), signal.SIGINT, signal.SIGTERM):
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.raise_signal(number)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        come()
    assert came == [signal.SIGTERM, signal.SIGINT]
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_in_another_thread_nothing_changes() -> None:
    def inside() -> object:
        with handling(lambda *_: None, signal.SIGTERM):
            return signal.getsignal(signal.SIGTERM)

    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(inside).result() == signal.getsignal(signal.SIGTERM)


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_an_ignored_signal_stays_ignored(number: signal.Signals) -> None:
    before = signal.signal(number, signal.SIG_IGN)
    try:
        with handling(lambda *_: pytest.fail("handled"), *STOP_SIGNALS):
            signal.raise_signal(number)
    finally:
        signal.signal(number, before)


def test_a_signal_ends_the_wait_for_a_call_that_blocks() -> None:
    def stop(number: int, frame: object) -> None:
        raise InterruptedError

    blocked, release = threading.Event(), threading.Event()

    def block() -> None:  # like a library that returns to Python after a time limit of its own
        blocked.set()
        os.kill(os.getpid(), signal.SIGTERM)
        release.wait(20)

    with handling(stop, signal.SIGTERM), pytest.raises(InterruptedError):
        interruptible(block)
    assert blocked.is_set()
    release.set()


def test_an_interruptible_call_returns_and_raises() -> None:
    assert interruptible(lambda: 5) == 5
    with pytest.raises(ZeroDivisionError):
        interruptible(lambda: 1 / 0)
    with ThreadPoolExecutor(1) as pool:
        thread = pool.submit(lambda: interruptible(threading.current_thread)).result()
    assert thread is not threading.current_thread()
    assert "interruptible" not in thread.name
