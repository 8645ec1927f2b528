"""The protocol of a kind of result sink, and the base class of sinks that write one file."""

import contextlib
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from idol_runtime.config import StreamConfig
from idol_runtime.errors import OutputError
from idol_runtime.events import Tell, log_event
from idol_runtime.files import replacing
from idol_runtime.frames import Frame
from idol_runtime.tracking.results import FrameResult

__all__ = ["FileSink", "Sink", "SinkContext"]

SinkT = TypeVar("SinkT", bound="Sink")


@dataclass(frozen=True)
class SinkContext:
    """Facts about a source and its run that a sink may need.

    Attributes:
        name: name of the source, for titles and messages.
        size: (height, width) of every frame in pixels.
        fps: frames per second of a written video.
        config: categories of the network, and the rules that turn tracks into results.
        boxes: draw boxes as well as masks.
        caption: one line along the lower edge of drawn frames; None for no caption.
        video_id: video id of the entries in a results file.
        live: True for a source without an end of its own (a camera or a network stream).
        append: continue an existing output, because the state of an earlier run is continued.
        tell: function that receives the events of the output.
    """

    name: str
    size: tuple[int, int]
    fps: float
    config: StreamConfig
    boxes: bool = False
    caption: str | None = None
    video_id: int = 1
    live: bool = False
    append: bool = False
    tell: Tell = log_event


class Sink(ABC):
    """An output for results; a context manager.

    The constructor checks the target, before any frame is computed. No partial file is left: leaving the `with` block
    by an error or by Ctrl-C completes the output with the frames written so far.

    To add a kind, write a subclass in a module of this folder and add it to `opening.SINKS`.

    Attributes:
        is_path: True if the target is a file or folder, which must differ from all inputs and other outputs.
        all_instances: True if the sink receives all instances, also those below the score threshold.
        interactive: True if the sink runs in the calling thread and can stop the run, as a window does.
        context: facts about the source and its run.
        frames_written: number of frames written so far.
        stopped: True once the user has asked in this sink to end the run.
        path: file or folder that is written; None if it is no path.
        complete: True once all of the output is written.
        note: fact about the output that the user must know; empty for none.
    """

    is_path = True
    all_instances = False
    interactive = False

    def __init__(self, target: str | Path, context: SinkContext) -> None:
        """Open the sink.

        Args:
            target: value of the command-line option; empty for a switch.
            context: facts about the source and its run.
        """
        self.context = context
        self.frames_written = 0
        self.stopped = self.complete = False
        self.path: Path | None = None
        self.note = ""

    @classmethod  # noqa: B027 - an optional check
    def check(cls, target: str) -> None:
        """Check what can be known of a target before a network is loaded; the default accepts everything.

        Raises:
            IdolError: the target cannot be used.
        """

    def __enter__(self: SinkT) -> SinkT:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        # An error of close() must not replace the first error.
        with contextlib.suppress(OutputError) if kind else contextlib.nullcontext():
            self.close()
            self.complete = self.frames_written > 0

    @abstractmethod
    def write(self, frame: Frame, result: FrameResult) -> None:
        """Write one frame and its result.

        Raises:
            OutputError: the output cannot be written.
        """

    @abstractmethod
    def close(self) -> None:
        """Complete the output, or remove it if no frame was written; may be called twice.

        Raises:
            OutputError: the output cannot be completed; nothing of it is left.
        """


class FileSink(Sink):
    """A sink that writes one file under a temporary name and renames it when it is complete.

    An existing file is replaced on `close`.
    """

    def __init__(self, target: str | Path, context: SinkContext) -> None:
        super().__init__(target, context)
        self.path: Path = Path(target)
        self._is_open = True
        self._pending = contextlib.ExitStack()
        self._temporary = self._pending.enter_context(replacing(target))

    @abstractmethod
    def _finish(self) -> None:
        """Write what is buffered and close the temporary file.

        Raises:
            OutputError: the file is incomplete.
        """

    def close(self) -> None:
        """Rename the file to its target, or remove it if no frame was written; may be called twice.

        Raises:
            OutputError: the file cannot be completed; nothing of it is left.
        """
        if not self.frames_written:
            self.abort()
        elif self._is_open:
            self._is_open = False
            with self._pending:
                self._finish()

    def abort(self) -> None:
        """Remove the file unless it is already complete."""
        if self._is_open:
            self._is_open = False
            with contextlib.suppress(OutputError), self._pending:
                self._finish()
                raise OutputError("discarded")  # makes `replacing` remove the temporary file
