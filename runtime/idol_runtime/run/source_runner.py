"""One source of a run on its way: read and resized ahead of the network, drawn and written behind it.

Each has a thread for what comes before the network and one for what comes after, and holds a few frames at most. It
ends by itself, at the source's end or at an error of its own; the others go on.
"""

import contextlib
import threading
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import Any, TypeAlias

from idol_runtime.errors import ConfigError, IdolError
from idol_runtime.frames import Frame
from idol_runtime.run.options import RunOptions, RunSummary
from idol_runtime.run.threads import Behind, Handover, ahead
from idol_runtime.sinks.files import DisplaySink, JsonlSink, MaskSink, Sink, VideoSink
from idol_runtime.sinks.results import ResultsSink
from idol_runtime.sources.images import NOMINAL_FPS
from idol_runtime.sources.opening import FrameSource, open_source
from idol_runtime.stream import Prepared, Stream
from idol_runtime.tracking.results import FrameResult

__all__ = ["SourceRunner"]

_Tracked: TypeAlias = tuple[Frame, FrameResult, FrameResult]  # all that was found, and what is shown of it


class SourceRunner:
    """A source, its outputs, and how far it has come.

    Attributes:
        live: it is a camera or a network stream, which others do not wait for.
        going: it may have more frames.
        stopped: the user asked for an end in its window.
        summary: what came of it so far.
    """

    def __init__(self, stream: Stream, options: RunOptions, note: str = "", row: int | None = None) -> None:
        """Open the source, and check the place of every output.

        Args:
            stream: prepares its frames.
            options: what to read and write.
            note: caption of annotated videos.
            row: of its progress bar, where there are several.

        Raises:
            ConfigError: a file was to be read like a camera.
            SourceError: it cannot be read.
            OutputError: an output cannot be written.
        """
        self._stream, self._options, self._row = stream, options, row
        self._closing = contextlib.ExitStack()
        with contextlib.ExitStack() as stack:
            self._source = source = stack.enter_context(
                open_source(options.source, stride=options.stride, max_frames=options.max_frames)
            )
            if options.latest and not source.live:
                raise ConfigError(
                    f"{source.name} waits to be read and loses nothing; leave --latest (latest=True) out"
                )
            self._windows, self._drawn, self._collected = _sinks(stream, options, source, note)
            for sink in (*self._windows, *self._drawn, *self._collected):
                stack.enter_context(sink)
            self._closing = stack.pop_all()
        self.live, self.going = source.live, True
        self.summary = RunSummary(source.name, outputs=options.outputs)
        self._highest = -1  # identities number from 0 without gaps, so their count needs no set that grows

    def __enter__(self) -> "SourceRunner":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.going:
            self._end(error)

    def start(self, changed: threading.Condition) -> None:
        """Begin to read.

        Args:
            changed: notified when there is something to take; one for all lanes.
        """
        enter = self._closing.enter_context
        self._behind = enter(Behind[_Tracked](self._write))
        if self._options.latest:  # resized when taken, since some will be lost
            frames = enter(ahead(self._source, newest=True, changed=changed))
            self._frames: Iterator[tuple[Frame, Prepared]] = self._prepared(frames)
            self._queue: Handover[Any] = frames
        else:
            self._frames = self._queue = enter(ahead(self._prepared(self._source), changed=changed))
        self._bar = _bar(self._source, self._row, self._closing)

    @property
    def ready(self) -> bool:
        """Whether `take` would not wait."""
        return self._queue.ready

    @property
    def stopped(self) -> bool:
        """Whether the user asked for an end here."""
        return any(window.stopped for window in self._windows)

    def take(self) -> tuple[Frame, Prepared] | None:
        """The next frame; None at the end, whatever ended it."""
        try:
            return next(self._frames)
        except StopIteration:
            self._end(None)
        except IdolError as error:
            self._end(error)
        return None

    def give(self, frame: Frame, result: FrameResult) -> None:
        """Hand over what was found in a frame, to be written."""
        shown = result.above(self._options.score)
        try:
            self._behind.submit((frame, result, shown))
            for window in self._windows:
                window.write(frame, shown)
        except IdolError as error:
            self._end(error)
            return
        self._highest = max(self._highest, *result.ids.tolist(), -1)
        self.summary.frames += 1
        self.summary.tracks = self._highest + 1
        self._bar.set_postfix(tracks=self.summary.tracks, now=len(shown), refresh=False)
        self._bar.update()

    def _end(self, error: BaseException | None) -> None:
        """Finish every output."""
        self.going = False
        late: BaseException | None = None
        try:
            if error is None:
                self._closing.close()
            else:
                self._closing.__exit__(type(error), error, error.__traceback__)
        except IdolError as found:
            late = found
        told = error or late
        self.summary.error = told if isinstance(told, IdolError) else None

    def _prepared(self, frames: Iterable[Frame]) -> Iterator[tuple[Frame, Prepared]]:
        for frame in frames:
            yield frame, self._stream.prepare(frame.image)

    def _write(self, tracked: _Tracked) -> None:
        frame, result, shown = tracked
        for sink in self._collected:
            sink.write(frame, result)
        for sink in self._drawn:
            sink.write(frame, shown)


def _sinks(
    stream: Stream, options: RunOptions, source: FrameSource, note: str
) -> tuple[list[Sink], list[Sink], list[Sink]]:
    """Windows, other sinks of what is shown, and sinks of everything; all check their place now."""
    caption = note or None
    windows: list[Sink] = []
    drawn: list[Sink] = []
    collected: list[Sink] = []
    with contextlib.ExitStack() as undo:

        def add(sinks: list[Sink], sink: Sink) -> None:
            undo.callback(sink.abort)
            sinks.append(sink)

        if options.save is not None:
            add(drawn, _video(options, source, caption))
        if options.jsonl is not None:
            add(drawn, JsonlSink(options.jsonl))
        if options.masks is not None:
            add(drawn, MaskSink(options.masks))
        if options.results is not None:
            add(collected, ResultsSink(options.results, stream.config, options.video_id))
        if options.display:
            add(windows, DisplaySink(source.name, boxes=options.boxes, caption=caption))
        undo.pop_all()
    return windows, drawn, collected


def _video(options: RunOptions, source: FrameSource, caption: str | None) -> VideoSink:
    assert options.save is not None
    assert source.size is not None
    fps = source.fps or NOMINAL_FPS
    return VideoSink(options.save, fps=fps, size=source.size, boxes=options.boxes, caption=caption)


class _NoBar:
    """Stands in for a progress bar where tqdm is not installed."""

    def set_postfix(self, **_: object) -> None:
        """Show nothing."""

    def update(self) -> None:
        """Count nothing."""


def _bar(source: FrameSource, row: int | None, stack: contextlib.ExitStack) -> Any:
    """A bar that counts a source's frames; it shows only on a terminal."""
    try:
        from tqdm import tqdm
    except ImportError:
        return _NoBar()
    bar = tqdm(total=source.frame_count, unit="frame", disable=None, desc=source.name, position=row)
    return stack.enter_context(bar)
