"""Waiting in tests: no test depends on the speed of the machine."""

import contextlib
import subprocess
from collections.abc import Callable
from pathlib import Path
from time import monotonic, sleep  # not those that a test replaces
from typing import TypeVar

__all__ = ["LIMIT_S", "lives", "until"]

T = TypeVar("T")

# Only ends a test that would hang: long enough for every machine under every load.
LIMIT_S = 120.0


def until(
    condition: Callable[[], T], process: "subprocess.Popen[str] | None" = None, limit_s: float = LIMIT_S
) -> T:
    """Wait until a condition is true, and return its value.

    Args:
        condition: function that is called again and again.
        process: process that must not end meanwhile; None for none.
        limit_s: longest wait in seconds.
    """
    deadline = monotonic() + limit_s
    while not (value := condition()):
        assert process is None or process.poll() is None, process.communicate()
        assert monotonic() < deadline, value
        sleep(0.01)
    return value


def lives(pid: int) -> bool:
    """Return False for a process that has ended, also if nobody has waited for it."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False
