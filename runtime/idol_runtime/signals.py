"""Temporary signal handlers, and waits that signals end. The command line loads this module without numpy."""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from types import FrameType
from typing import TypeVar

__all__ = ["STOP_SIGNALS", "handling", "interruptible"]

T = TypeVar("T")

# Ctrl-C, a service manager's stop, and a closed terminal (which Windows lacks).
STOP_SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
)


@contextlib.contextmanager
def handling(handler: Callable[[int, FrameType | None], None], *numbers: signal.Signals) -> Iterator[None]:
    """Install a handler for signals and restore the previous handlers on exit. Does nothing outside the main thread.

    A signal that is ignored stays ignored, such as SIGHUP under `nohup`.

    Args:
        handler: function of the signal's number and the interrupted frame.
        numbers: signals to handle.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    heeded = [number for number in numbers if signal.getsignal(number) != signal.SIG_IGN]
    before = {number: signal.signal(number, handler) for number in heeded}
    try:
        yield
    finally:
        for number, previous in before.items():
            signal.signal(number, previous)


def interruptible(call: Callable[[], T]) -> T:
    """Return the result of a call that may block in a library, where Python runs no signal handler.

    The main thread runs the call in another thread and waits, so that a signal ends the wait at once; the thread is
    then abandoned. Other threads run the call themselves.
    """
    if threading.current_thread() is not threading.main_thread():
        return call()
    future: Future[T] = Future()

    def work() -> None:
        try:
            future.set_result(call())
        except BaseException as error:  # noqa: BLE001 - raised in the caller
            future.set_exception(error)

    threading.Thread(target=work, name="idol-interruptible", daemon=True).start()
    return future.result()
