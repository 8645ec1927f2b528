"""One source of a run: its frames, its outputs and its progress bar.

A prefetch thread reads and resizes frames before the network needs them, and a writer thread draws and writes results;
each queue holds a few frames at most. A source ends at its last frame or at its own error, while the others go on.
"""

import contextlib
import threading
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any, TypeAlias

from idol_runtime.errors import ConfigError, IdolError
from idol_runtime.frames import Frame
from idol_runtime.run.options import RunOptions, RunSummary
from idol_runtime.run.threads import BoundedQueue, WriterThread, prefetch
from idol_runtime.sinks.base import Sink, SinkContext
from idol_runtime.sources.base import NOMINAL_FPS
from idol_runtime.sources.opening import open_source
from idol_runtime.stream import Prepared, Stream
from idol_runtime.tracking.results import FrameResult

__all__ = ["SourceRunner"]

_Tracked: TypeAlias = tuple[
    Frame, FrameResult, FrameResult
]  # frame, all instances, instances above the score


class SourceRunner:
    """A source, its outputs and its progress.

    Attributes:
        live: True for a camera or a network stream, for which other sources do not wait.
        active: True while the source may have more frames.
        summary: outcome so far.
    """

    def __init__(self, stream: Stream, options: RunOptions, note: str = "", row: int | None = None) -> None:
        """Open the source and all outputs.

        Args:
            stream: stream that prepares the frames.
            options: source and outputs.
            note: caption of annotated videos; empty for no caption.
            row: screen row of the progress bar; None for a single source.

        Raises:
            ConfigError: `latest` is set for a file.
            SourceError: the source cannot be read.
            OutputError: an output cannot be written.
        """
        self._stream, self._options, self._row = stream, options, row
        self._sinks: list[Sink] = []
        with contextlib.ExitStack() as stack:
            self._source = source = stack.enter_context(
                open_source(
                    options.source,
                    stride=options.stride,
                    # With `latest`, dropped frames do not count.
                    max_frames=None if options.latest else options.max_frames,
                )
            )
            if options.latest and not source.live:
                raise ConfigError(
                    f"--latest (latest=True) applies to cameras and streams only, but {source.name} is a file; "
                    "leave --latest out"
                )
            assert source.size is not None  # without `live`, the first frame is read
            context = SinkContext(
                name=source.name,
                fps=source.fps or NOMINAL_FPS,
                config=stream.config,
                boxes=options.boxes,
                caption=note or None,
                video_id=options.video_id,
                live=source.live,
                files=options.files,
            )
            for output in options.outputs:
                self._sinks.append(stack.enter_context(output.sink(output.target, context)))
            self._resources = stack.pop_all()
        if source.live:
            stream.use_live_rules()
        self.live, self.active = source.live, True
        self.summary = RunSummary(source.name)
        self._queue: BoundedQueue[Any] = BoundedQueue()  # until `start`

    def __enter__(self) -> "SourceRunner":
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if self.active:
            self._end(error)

    def start(self, changed: threading.Condition) -> None:
        """Start the threads and the progress bar.

        Args:
            changed: condition that is notified when a frame is ready; the same one for all sources.
        """
        enter, latest = self._resources.enter_context, self._options.latest
        self._writer = enter(WriterThread[_Tracked](self._write))
        # With `latest`, frames are resized only when they are taken, because some are dropped.
        frames: Iterable[Any] = self._source if latest else self._prepare(self._source)
        self._queue = enter(prefetch(frames, drop_oldest=latest, changed=changed))
        prepared = self._prepare(self._queue) if latest else self._queue
        self._frames: Iterator[tuple[Frame, Prepared]] = islice(prepared, self._options.max_frames)
        self._bar = self._open_bar()

    @property
    def ready(self) -> bool:
        """True if `next_frame` would not wait."""
        return self._queue.ready

    @property
    def stopped(self) -> bool:
        """True if the user asked in a window to end the run."""
        return any(sink.stopped for sink in self._sinks)

    def next_frame(self) -> tuple[Frame, Prepared] | None:
        """Return the next frame; None at the end or after an error of the source."""
        try:
            return next(self._frames)
        except StopIteration:
            self._end(None)
        except IdolError as error:
            self._end(error)
        return None

    def write(self, frame: Frame, result: FrameResult) -> None:
        """Write a result to all outputs; an error ends the source."""
        visible = result.above(self._options.score)
        try:
            self._writer.submit((frame, result, visible))
            self._write((frame, result, visible), interactive=True)
        except IdolError as error:
            self._end(error)
            return
        self.summary.frames += 1
        # Identities are numbered from 0 without gaps.
        self.summary.tracks = max(self.summary.tracks, *(result.ids + 1).tolist(), 0)
        if self._bar is not None:
            self._bar.set_postfix(tracks=self.summary.tracks, now=len(visible), refresh=False)
            self._bar.update()

    def _write(self, tracked: _Tracked, interactive: bool = False) -> None:
        frame, result, visible = tracked
        for sink in self._sinks:
            if sink.interactive == interactive:
                sink.write(frame, result if sink.all_instances else visible)

    def _end(self, error: BaseException | None) -> None:
        """Complete every output and note the first error."""
        self.active = False
        try:
            self._resources.__exit__(type(error) if error else None, error, None)
        except IdolError as closing_error:
            error = error or closing_error
        self.summary.error = error if isinstance(error, IdolError) else None
        self.summary.paths = tuple(
            sink.path for sink in self._sinks if sink.complete and sink.path is not None
        )
        notes = [sink.note for sink in self._sinks if sink.note and sink.frames_written]
        if self._queue.dropped:
            notes.append(
                f"{self.summary.source}: {self._queue.dropped} frames were dropped for newer ones (--latest)"
            )
        self.summary.notes = tuple(notes)

    def _prepare(self, frames: Iterable[Frame]) -> Iterator[tuple[Frame, Prepared]]:
        for frame in frames:
            yield frame, self._stream.prepare(frame.image)

    def _open_bar(self) -> Any:
        """Open a progress bar, which shows only on a terminal; None if tqdm is not installed."""
        try:
            from tqdm import tqdm
        except ImportError:
            return None
        count, name = self._source.frame_count, self._source.name
        bar = tqdm(total=count, unit="frame", disable=None, desc=name, position=self._row)
        return self._resources.enter_context(bar)
