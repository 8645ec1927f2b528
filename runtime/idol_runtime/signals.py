"""Temporary signal handlers. A separate module, because the command line loads it without numpy."""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType

__all__ = ["handling"]


@contextlib.contextmanager
def handling(handler: Callable[[int, FrameType | None], None], *numbers: signal.Signals) -> Iterator[None]:
    """Install a handler for signals and restore the previous handlers on exit. Does nothing outside the main thread.

    Args:
        handler: function of the signal's number and the interrupted frame.
        numbers: signals to handle.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, previous in before.items():
            signal.signal(number, previous)
