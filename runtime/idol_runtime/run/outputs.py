"""The open outputs of a source that one thread writes."""

import contextlib
from collections.abc import Callable, Sequence
from pathlib import Path

from idol_runtime.frames import Frame
from idol_runtime.sinks.base import Sink, SinkContext
from idol_runtime.sinks.opening import Output
from idol_runtime.tracking.results import FrameResult

__all__ = ["OpenOutputs"]


class OpenOutputs:
    """Outputs that are opened by `open`, or at the first frame.

    Args:
        outputs: outputs to open.
        context: function that returns the facts for the sinks; called when they are opened.
    """

    def __init__(self, outputs: Sequence[Output], context: Callable[[], SinkContext]) -> None:
        self._outputs, self._context = outputs, context
        self._sinks: list[Sink] | None = None
        self._resources = contextlib.ExitStack()

    def open(self) -> None:
        """Open all outputs; only the first call has an effect.

        Raises:
            OutputError: an output cannot be written.
        """
        if self._sinks is None:
            context = self._context()
            self._sinks = []
            for output in self._outputs:
                self._sinks.append(self._resources.enter_context(output.sink(output.target, context)))

    def write(self, frame: Frame, result: FrameResult, visible: FrameResult) -> None:
        """Write a frame to every output.

        Args:
            frame: frame of the source.
            result: all instances of the frame.
            visible: instances above the minimum score.

        Raises:
            OutputError: an output cannot be written.
        """
        self.open()
        for sink in self._sinks or ():
            sink.write(frame, result if sink.all_instances else visible)

    def close(self, error: BaseException | None = None) -> None:
        """Complete all outputs.

        Args:
            error: error that ended the source, beside which an error of an output is not raised.

        Raises:
            OutputError: an output cannot be completed.
        """
        self._resources.__exit__(type(error) if error else None, error, None)

    def rotate(self) -> None:
        """Continue every output in a new file from the next frame on; may be called in any thread."""
        for sink in self._sinks or ():
            sink.rotate()

    def end_parts(self) -> None:
        """Complete the open file of every output while no frame comes, and delete old ones."""
        for sink in self._sinks or ():
            sink.end_part()

    @property
    def stopped(self) -> bool:
        """True if the user asked in a window to end the run."""
        return any(sink.stopped for sink in self._sinks or ())

    @property
    def paths(self) -> tuple[Path, ...]:
        """Files and folders that were written completely."""
        return tuple(s.path for s in self._sinks or () if s.complete and s.path is not None)

    @property
    def notes(self) -> tuple[str, ...]:
        """Facts about the outputs that the user must know."""
        return tuple(sink.note for sink in self._sinks or () if sink.note and sink.frames_written)
