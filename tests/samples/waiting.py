"""Waiting in tests: no test depends on the speed of the machine."""

import subprocess
import time
from collections.abc import Callable
from typing import TypeVar

__all__ = ["LIMIT_S", "until"]

T = TypeVar("T")

# Only ends a test that would hang: long enough for every machine under every load.
LIMIT_S = 120.0


def until(condition: Callable[[], T], process: "subprocess.Popen[str] | None" = None) -> T:
    """Wait until a condition is true, and return its value.

    Args:
        condition: function that is called again and again.
        process: process that must not end meanwhile; None for none.
    """
    deadline = time.monotonic() + LIMIT_S
    while not (value := condition()):
        assert process is None or process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, value
        time.sleep(0.01)
    return value
