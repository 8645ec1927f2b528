"""What every sink of results does: check first, finish on the way out, leave nothing half-written."""

import contextlib
from abc import ABC, abstractmethod
from pathlib import Path
from types import TracebackType
from typing import TypeVar

from idol_runtime.errors import OutputError
from idol_runtime.files import replacing
from idol_runtime.frames import Frame
from idol_runtime.tracking.results import FrameResult

__all__ = ["FileSink", "Sink"]

SinkT = TypeVar("SinkT", bound="Sink")


class Sink(ABC):
    """A place for results; a context manager.

    Attributes:
        frames_written: frames so far.
        stopped: the user asked for an end here; whoever drives the frames should leave its loop.
    """

    def __init__(self) -> None:
        self.frames_written = 0
        self.stopped = False

    def __enter__(self: SinkT) -> SinkT:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.close()
            return
        # The first error is the one to tell.
        with contextlib.suppress(OutputError):
            self.close()

    @abstractmethod
    def write(self, frame: Frame, result: FrameResult) -> None:
        """Take one frame and its result.

        Raises:
            OutputError: it cannot be written.
        """

    @abstractmethod
    def close(self) -> None:
        """Finish: give the output its name, or remove it if no frame was written; safe to call twice.

        Raises:
            OutputError: it cannot be finished; nothing of it is left.
        """

    @abstractmethod
    def abort(self) -> None:
        """Remove what was written and is not yet under its final name."""


class FileSink(Sink):
    """A sink of one file."""

    def __init__(self, path: str | Path) -> None:
        super().__init__()
        self.path = Path(path)
        self._pending = replacing(path)
        self._temporary = self._pending.__enter__()
        self._open = True

    @abstractmethod
    def _finish(self) -> None:
        """Write out and let go of the temporary file.

        Raises:
            OutputError: what was written is not whole.
        """

    def close(self) -> None:
        """Give the file its name, or remove it if no frame was written; safe to call twice.

        Raises:
            OutputError: it cannot be finished; nothing of it is left.
        """
        if not self.frames_written:
            self.abort()
        if not self._open:
            return
        try:
            self._finish()
        except OutputError:
            self.abort()
            raise
        self._open = False
        self._pending.__exit__(None, None, None)

    def abort(self) -> None:
        """Remove the file unless it has its name already."""
        if not self._open:
            return
        self._open = False
        with contextlib.suppress(OutputError):
            self._finish()
        self._pending.__exit__(RuntimeError, RuntimeError("discarded"), None)
