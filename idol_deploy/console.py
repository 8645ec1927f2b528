"""The standard streams and the stop signals of the `idol-deploy` command, from its first line to its last."""

import contextlib
import io
import os
import sys
from collections.abc import Iterator
from types import FrameType
from typing import TYPE_CHECKING

from idol_runtime.signals import STOP_SIGNALS, handling

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

__all__ = ["StandardOutput", "StopRequest", "standard_streams", "stop_request"]


class StandardOutput(io.FileIO):
    """A standard stream whose first write error does not stop the command: later output is discarded.

    Attributes:
        failure: first error of a write; None if there was none.
    """

    def __init__(self, descriptor: int) -> None:
        super().__init__(descriptor, "w", closefd=False)
        self.failure: OSError | None = None

    def write(self, data: "ReadableBuffer", /) -> int:
        """Write bytes, or discard them after an error.

        Raises:
            BrokenPipeError: the reader of stdout has closed it, so further work is useless; only the first time.
        """
        size = memoryview(data).nbytes
        if self.failure is not None:
            return size
        try:
            return super().write(data)
        except OSError as error:
            self.failure = error
            if isinstance(error, BrokenPipeError) and self.fileno() == 1:
                raise
            return size


@contextlib.contextmanager
def standard_streams() -> Iterator[StandardOutput | None]:
    """Make the standard streams usable until exit, and yield that of stdout; None if a caller has replaced it.

    A stream that the shell has closed becomes the null device; otherwise the first file that the command opens would
    get its number, and messages would be written into it. A character that the terminal cannot show is escaped.
    """
    lowest = os.open(os.devnull, os.O_RDWR)
    while lowest < 3:  # the number of a closed stream
        lowest = os.open(os.devnull, os.O_RDWR)
    os.close(lowest)
    before = sys.stdout, sys.stderr
    output = None
    if sys.stdout is sys.__stdout__:
        output = StandardOutput(1)
        sys.stdout = _text(output)
    if sys.stderr is sys.__stderr__:
        sys.stderr = _text(StandardOutput(2))
    try:
        yield output
    finally:
        with contextlib.suppress(BrokenPipeError):
            sys.stdout.flush()
        sys.stderr.flush()
        sys.stdout, sys.stderr = before


def _text(stream: StandardOutput) -> io.TextIOWrapper:
    standard = sys.__stdout__ if stream.fileno() == 1 else sys.__stderr__
    encoding = standard.encoding if standard is not None else "utf-8"
    terminal = stream.isatty() or stream.fileno() == 2
    return io.TextIOWrapper(
        io.BufferedWriter(stream),
        encoding,
        "backslashreplace",
        line_buffering=terminal,
        write_through=stream.fileno() == 2,
    )


class StopRequest:
    """A request to stop: Ctrl-C, SIGTERM or SIGHUP.

    Attributes:
        received: whether a signal has come. A library that was interrupted may have raised any error since.
        closing: True once the command has ended, so that a signal no longer interrupts anything.
    """

    def __init__(self) -> None:
        self.received = self.closing = False

    def interrupt(self, number: int, frame: FrameType | None) -> None:
        """Handle a signal: raise KeyboardInterrupt in the main thread, so that files are completed."""
        self.received = True
        if not self.closing:
            raise KeyboardInterrupt


@contextlib.contextmanager
def stop_request() -> Iterator[StopRequest]:
    """Handle the stop signals until exit."""
    request = StopRequest()
    with handling(request.interrupt, *STOP_SIGNALS):
        yield request
