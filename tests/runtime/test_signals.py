import signal
from concurrent.futures import ThreadPoolExecutor

import pytest

from idol_runtime.signals import handling


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
