"""What a command tells while it works, and how it says that it was interrupted."""

import contextlib
import sys
from collections.abc import Callable, Iterator

__all__ = ["INTERRUPTED", "steps"]

INTERRUPTED = 130  # exit status after Ctrl-C


@contextlib.contextmanager
def steps() -> Iterator[Callable[[str], None]]:
    """A line that says what is going on; where there is no terminal, plain lines on stdout."""
    terminal = sys.stderr.isatty()

    def announce(what: str) -> None:
        if terminal:
            print(f"\r\x1b[K{what} …", end="", file=sys.stderr, flush=True)
        else:
            print(what, flush=True)

    try:
        yield announce
    finally:
        if terminal:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
