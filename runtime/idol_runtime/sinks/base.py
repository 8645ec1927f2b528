"""The protocol of a kind of result sink, and the recovery of outputs that cannot be written for a while."""

import contextlib
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from idol_runtime.config import StreamConfig
from idol_runtime.errors import OutputError
from idol_runtime.events import Event, EventKind, Tell, log_event
from idol_runtime.files import write_error
from idol_runtime.frames import Frame
from idol_runtime.sinks.policy import FilePolicy
from idol_runtime.tracking.results import FrameResult

__all__ = ["RETRY_S", "Sink", "SinkContext"]

# Time after which a stopped output of a live source is tried again.
RETRY_S = 5.0

SinkT = TypeVar("SinkT", bound="Sink")


@dataclass(frozen=True)
class SinkContext:
    """Facts about a source and its run that a sink may need.

    Attributes:
        name: name of the source, for titles and messages.
        fps: frames per second of a written video.
        config: categories of the network, and the rules that turn tracks into results.
        boxes: draw boxes as well as masks.
        caption: one line along the lower edge of drawn frames; None for no caption.
        video_id: video id of the entries in a results file.
        live: True for a source without an end of its own (a camera or a network stream).
        append: continue an existing output, because the state of an earlier run is continued.
        files: limits of the output files.
        tell: function that receives the events of the output.
    """

    name: str
    fps: float
    config: StreamConfig
    boxes: bool = False
    caption: str | None = None
    video_id: int = 1
    live: bool = False
    append: bool = False
    files: FilePolicy = field(default_factory=FilePolicy)
    tell: Tell = log_event


class Sink(ABC):
    """An output for results; a context manager.

    The constructor checks the target, before any frame is computed. Leaving the `with` block by an error or by Ctrl-C
    completes the output with the frames written so far.

    An error of a file or folder ends a finite source. A live source goes on without this output: the sink tells
    `output_stopped` once, tries again every `RETRY_S` seconds, and tells `output_back` with the number of lost frames.

    To add a kind, write a subclass in a module of this folder and add it to `opening.SINKS`.

    Attributes:
        is_path: True if the target is a file or folder, which must differ from all inputs and other outputs.
        all_instances: True if the sink receives all instances, also those below the score threshold.
        interactive: True if the sink runs in the calling thread and can stop the run, as a window does.
        context: facts about the source and its run.
        frames_written: number of frames written so far.
        frames_lost: number of frames that were not written because the output was stopped.
        stopped: True once the user has asked in this sink to end the run.
        path: file or folder that is written; None if it is no path.
        complete: True once all of the output is written.
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
        self.frames_written = self.frames_lost = 0
        self.stopped = self.complete = False
        self.path: Path | None = None
        self._fact = ""
        self._failing = False
        self._retry_at, self._lost_before = 0.0, 0

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

    def write(self, frame: Frame, result: FrameResult) -> None:
        """Write one frame and its result, or count it as lost while the output of a live source is stopped.

        Raises:
            OutputError: the output cannot be written, and the source is finite or the output is no path.
        """
        if self._failing and time.monotonic() < self._retry_at:
            self.frames_lost += 1
            return
        try:
            with self._output_errors():
                self._write(frame, result)
        except OutputError as error:
            if not (self.context.live and self.is_path):
                raise
            self.frames_lost += 1
            self._retry_at = time.monotonic() + RETRY_S
            if not self._failing:
                self._failing, self._lost_before = True, self.frames_lost - 1
                self._tell("output_stopped", f"{error}; the run goes on and tries again every {RETRY_S:g} s")
            return
        self.frames_written += 1
        if self._failing:
            self._failing = False
            lost = self.frames_lost - self._lost_before
            self._tell("output_back", f"{self.path} is written again; frames not written: {lost}", lost=lost)

    @property
    def note(self) -> str:
        """Fact about the output that the user must know; empty for none."""
        return self._fact

    def rotate(self) -> None:  # noqa: B027 - an optional action
        """Continue in a new file from the next frame on; called from any thread. The default does nothing."""

    def end_part(self) -> None:  # noqa: B027 - an optional action
        """Complete the open file while no frame comes, and delete old ones; the default does nothing."""

    @abstractmethod
    def _write(self, frame: Frame, result: FrameResult) -> None:
        """Write one frame and its result.

        Raises:
            OSError, OutputError: the output cannot be written.
        """

    @abstractmethod
    def close(self) -> None:
        """Complete the output, if a frame was written; may be called twice.

        Raises:
            OutputError: the output cannot be completed.
        """

    @contextlib.contextmanager
    def _output_errors(self) -> Iterator[None]:
        """Raise an OSError as an OutputError with its fix."""
        try:
            yield
        except OSError as error:
            raise write_error(self.path or "the output", error) from error

    def _tell(self, kind: EventKind, message: str, **values: int | str) -> None:
        self.context.tell(Event(kind, self.context.name, message, {"output": str(self.path), **values}))
