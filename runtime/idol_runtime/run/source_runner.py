"""One source of a run: its frames, its outputs and its progress bar.

A prefetch thread reads frames before the network needs them, and a writer thread opens, writes and closes the outputs;
windows stay in the calling thread, as window systems require. No method waits for the source or for an output, so that
one slow source never holds up the others. A source ends at its last frame or at its own error.
"""

import contextlib
import logging
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any, TypeAlias

from idol_runtime.errors import IdolError, OutputError
from idol_runtime.events import Event, EventKind, Tell, Value, log_event
from idol_runtime.frames import Frame
from idol_runtime.run.continuity import Continuity
from idol_runtime.run.drops import DropReports
from idol_runtime.run.observer import FrameReport, Observe
from idol_runtime.run.options import RunOptions, RunSummary
from idol_runtime.run.outputs import OpenOutputs
from idol_runtime.run.threads import BoundedQueue, WriterThread, prefetch
from idol_runtime.run.track_events import TrackEvents
from idol_runtime.sinks.base import SinkContext
from idol_runtime.sources.base import NOMINAL_FPS, Source
from idol_runtime.sources.frame_source import FrameSource
from idol_runtime.sources.opening import open_source, reader_kind, source_paths
from idol_runtime.state import StreamState
from idol_runtime.stream import Prepared, Stream
from idol_runtime.tracking.boxes import Ints
from idol_runtime.tracking.results import FrameResult

__all__ = ["DEADLINE_DEPTH", "SourceRunner"]

# A report of the frame, still without the time of `write`; all instances, the identities in the tracker's memory, and a
# state to save.
_Tracked: TypeAlias = tuple[FrameReport, FrameResult, Ints | None, StreamState | None]

# Most frames that wait under a deadline; a higher value needs more memory.
DEADLINE_DEPTH = 8
# Time after a connection in which drops are only counted: the pictures that a stream sends while its format is detected
# arrive together.
_BURST_S = 5.0

_log = logging.getLogger(__name__)


class SourceRunner:
    """A source, its outputs and its progress; all methods are called in the thread of the network.

    Attributes:
        name: name of the source for messages.
        options: options of the source.
        active: True while the source may have more frames.
        removed: True once somebody has asked to end this source; may be set in any thread.
        served: number of the round that took the last frame.
        readers: threads that may still read the source.
        summary: outcome so far.
    """

    def __init__(
        self,
        stream: Stream,
        options: RunOptions,
        *,
        tell: Tell = log_event,
        track_events: bool = False,
        observe: Observe | None = None,
        note: str = "",
        changed: threading.Condition | None = None,
    ) -> None:
        """Open the source and its outputs.

        Args:
            stream: stream that prepares the frames.
            options: source and outputs.
            tell: function that receives the events of the source.
            track_events: tell the events of tracks as well.
            observe: function that receives a report of each frame; an error of it is logged once.
            note: caption of annotated videos; empty for no caption.
            changed: condition that is notified when a frame is ready; the same one for all sources.

        Raises:
            SourceError: the source cannot be read.
            StateError: the state of an earlier run cannot be continued.
            OutputError: an output cannot be written.
        """
        self._stream, self.options, self._tell_run, self._note = stream, options, tell, note
        self._observe, self._burst_until_s = observe, float("-inf")
        self._changed = changed or threading.Condition()
        # Dropped frames do not count towards `max_frames`, so that only files are opened with it.
        limit = options.max_frames if source_paths(options.source) else None
        self._source = source = open_source(
            options.source, stride=options.stride, max_frames=limit, live=options.live, tell=self._tell_source
        )
        self.name = options.name or source.name
        self.summary = RunSummary(self.name)
        windows, files = (
            OpenOutputs([o for o in options.outputs if o.sink.interactive == interactive], self._context)
            for interactive in (True, False)
        )
        self._windows, self._files = windows, files
        try:
            self._continuity = Continuity(stream, source, options, self._tell)
            try:
                if not (source.size is None and _may_end(options.source)):
                    files.open()
            except BaseException:
                self._continuity.close()
                raise
        except BaseException as error:
            self._files.close(error)
            source.close()
            raise
        self._track_events = None
        if track_events:
            self._track_events = TrackEvents(stream, self._tell, self._continuity.resumed_s)
        self._dropping, self._queue = self._new_queue()
        self.active, self.removed, self.served = True, False, 0
        self.readers: list[threading.Thread] = []
        self._writer: WriterThread[_Tracked | None] | None = None
        self._silent_at_s = 0.0  # time at which a source without frames ends its files
        self._error: BaseException | None = None
        self._bar: Any = None
        self._drops = DropReports(time.monotonic(), options.stride, self._tell)

    def start(self) -> None:
        """Start the threads and the progress bar; only the first call has an effect."""
        if self._writer is None:
            self._writer = WriterThread(self._write_files, self._close_files, self._changed)
            # Where frames may be dropped, they are resized only when they are taken.
            frames: Iterable[Any] = self._continuity.frames(self._source)
            if not self._dropping:
                frames = self._prepare(frames)
            self.readers.append(prefetch(frames, self._queue))
            self._bar = self._open_bar()

    @property
    def ready(self) -> bool:
        """True if `next_frame` would not wait, and the outputs have room for its result."""
        writer = self._writer
        return writer is not None and (writer.done or (self._queue.ready and not writer.full))

    @property
    def ended(self) -> bool:
        """True if the source is no longer active and its outputs are closed."""
        return not self.active and (self._writer is None or self._writer.done)

    @property
    def stopped(self) -> bool:
        """True if the user asked in a window to end the run."""
        return self._windows.stopped

    def next_frame(self) -> tuple[Frame, Prepared] | None:
        """Return the next frame; None at the end or after an error of the source."""
        assert self._writer is not None
        if self._writer.error is not None:
            self.end(self._writer.error)
            return None
        try:
            item = next(self._queue)
            self._continuity.begin(item if self._dropping else item[0])
            return next(self._prepare([item])) if self._dropping else item
        except StopIteration:
            self.end()
        except Exception as error:  # noqa: BLE001 - reported in the summary
            self.end(error)
        return None

    def write(self, frame: Frame, result: FrameResult, stages: Mapping[str, float]) -> None:
        """Write a result to all outputs; an error ends the source.

        Args:
            frame: frame of the source.
            result: all instances of the frame.
            stages: seconds by stage, as far as they are over.
        """
        assert self._writer is not None
        visible = result.above(self.options.score)
        summary, age_s = self.summary, None
        if self._source.live and frame.arrived_s:
            age_s = time.monotonic() - frame.arrived_s
            summary.ages.add(age_s)
            stages = {"wait": age_s - sum(stages.values()), **stages}
        summary.frames += 1
        # Identities are numbered without gaps.
        summary.tracks = max(summary.tracks, *(result.ids + 1 - self._continuity.first_id).tolist(), 0)
        state = self._continuity.done(frame)
        try:
            self._windows.write(frame, result, visible)
        except Exception as error:  # noqa: BLE001 - reported in the summary
            self.end(error)
            return
        counts = summary.frames, self._queue.dropped, summary.tracks
        bank = self._stream.tracker.bank
        report = FrameReport(self.name, frame, visible, stages, age_s, *counts)
        self._writer.submit((report, result, None if bank is None else bank.ids, state))
        self._silent_at_s = time.monotonic() + self.options.files.rotate.seconds
        if self._bar is not None:
            dropped = {"dropped": self._queue.dropped} if self._queue.dropped else {}
            self._bar.set_postfix(tracks=summary.tracks, now=len(visible), **dropped, refresh=False)
            self._bar.update()
        if summary.frames == self.options.max_frames:
            self.end()

    def tell_drops(self) -> None:
        """Tell about frames that are dropped continuously; those after a connection are only counted."""
        now, counts = time.monotonic(), (self._queue.dropped, self.summary.frames)
        if now < self._burst_until_s:
            self._drops.restart(now, *counts)
        elif self._writer is not None:
            self._drops.update(now, *counts, slow_output=self._writer.full)

    def end_silent(self) -> None:
        """Complete the open files and delete old ones, whenever no frame has come for the time of `--rotate`."""
        now, limit_s = time.monotonic(), self.options.files.rotate.seconds
        if self._writer is not None and not self._writer.full and now >= self._silent_at_s:
            self._silent_at_s = now + limit_s
            self._writer.submit(None)

    def rotate(self) -> None:
        """Continue the outputs in new files from the next frame on; may be called in any thread."""
        self._files.rotate()

    def end(self, error: BaseException | None = None) -> None:
        """Take no more frames, and have the outputs closed after the frames that they have; `ended` tells when.

        Args:
            error: reason of the end; None at the end of the source, or if the run or the source was stopped.
        """
        if self.active:
            self.active, self._error = False, error
            self._queue.cancel()
            self._source.close()
            try:
                self._windows.close(error)
            except IdolError as closing_error:
                self._error = error or closing_error
            if self._writer is None:
                self._files.close(self._error)
                self._continuity.close()
            else:
                self._writer.finish(self._error)

    def cancel(self) -> None:
        """Drop the results that are not written yet."""
        if self._writer is not None:
            self._writer.cancel()

    def complete(self) -> None:
        """Complete the summary, once the source has ended."""
        summary, error = self.summary, self._error
        if self._writer is not None:
            error = error or self._writer.error
            if not self._writer.done and not isinstance(error, Exception):
                error = OutputError("an output hangs; check its disk or its receiver")
        summary.error = error if isinstance(error, Exception) else None
        if summary.error is not None and not isinstance(error, IdolError):
            _log.error("%s: internal error", self.name, exc_info=error)
        summary.dropped = self._queue.dropped
        summary.paths = (*self._files.paths, *self._windows.paths)
        notes = [*self._files.notes, *self._windows.notes]
        if summary.dropped:
            notes.append(f"{self.name}: {summary.dropped} frames were dropped for newer ones")
        if summary.ages.count:
            notes.append(f"{self.name}: frame age {summary.ages}")
        summary.notes = tuple(notes)
        if self._bar is not None:
            self._bar.close()
        figures = {"frames": summary.frames, "tracks": summary.tracks, "dropped": summary.dropped}
        if summary.error is None:
            kind: EventKind = "removed" if self.removed else "ended"
            self._tell(kind, f"{kind} after {summary.frames} frames", **figures)
        else:
            self._tell("ended", f"ended early: {error}", **figures, error=str(error))

    def join(self, timeout_s: float | None) -> None:
        """Wait until the outputs of an ended source are closed."""
        if self._writer is not None:
            self._writer.join(timeout_s)

    def _tell_source(self, event: Event) -> None:
        """Pass on an event of the source under the name that it has in the run; called before the frame it is about."""
        if event.kind in ("connected", "back"):
            self._burst_until_s = time.monotonic() + _BURST_S
        self._tell_run(replace(event, source=self.options.name or event.source))

    def _tell(self, kind: EventKind, message: str, **values: Value) -> None:
        self._tell_run(Event(kind, self.name, message, values))

    def _new_queue(self) -> tuple[bool, BoundedQueue[Any]]:
        """Return whether frames may be dropped, and the queue between the source and the network."""
        policy, source, changed = self.options.queue, self._source, self._changed
        if policy == "block" or (policy is None and not _is_live(self.options, source)):
            return False, BoundedQueue(changed=changed)
        if policy is None or policy == "latest":
            # A live kind of source may turn out to be a file on a server, which loses no frame.
            drop = (lambda: source.live) if policy is None else (lambda: True)
            return True, BoundedQueue(1, drop_oldest=drop, changed=changed)
        age_s = float(policy) / 1e3
        return True, BoundedQueue[Frame](
            DEADLINE_DEPTH,
            drop_oldest=lambda: True,
            expired=lambda frame: time.monotonic() - frame.arrived_s > age_s,
            changed=changed,
        )

    def _context(self) -> SinkContext:
        return SinkContext(
            name=self.name,
            fps=self._source.fps or NOMINAL_FPS,
            config=self._stream.config,
            boxes=self.options.boxes,
            caption=self._note or None,
            video_id=self.options.video_id,
            live=self._source.live,
            files=self.options.files,
            append=self._continuity.resumed,
            tell=self._tell_run,
        )

    def _write_files(self, item: _Tracked | None) -> None:
        if item is None:
            self._files.end_parts()
            return
        report, result, alive, state = item
        frame, started = report.frame, time.perf_counter()
        self._continuity.write(frame, state, lambda: self._files.write(frame, result, report.result))
        if self._track_events is not None:
            self._track_events.update(frame, report.result, alive)
        if self._observe is not None:
            stages = {**report.stages, "write": time.perf_counter() - started}
            try:
                self._observe(replace(report, stages=stages))
            except Exception:  # noqa: BLE001 - logged
                self._observe = None
                _log.exception("%s: frames are no longer observed", self.name)

    def _close_files(self, error: BaseException | None) -> None:
        # A later run goes on with the identities of a saved state.
        if self._track_events is not None and self.options.state is None:
            self._track_events.close()
        try:
            self._files.close(error)
            self._continuity.finish()
        finally:
            self._continuity.close()

    def _prepare(self, frames: Iterable[Frame]) -> Iterator[tuple[Frame, Prepared]]:
        for frame in frames:
            yield frame, self._stream.prepare(frame.image, resized=self._source.live)

    def _open_bar(self) -> Any:
        """Open a progress bar, which shows only on a terminal; None if tqdm is not installed."""
        with contextlib.suppress(ImportError):
            from tqdm import tqdm

            return tqdm(
                total=self._source.frame_count,
                initial=self._continuity.skipped,
                unit="frame",
                disable=None,
                desc=self.name,
            )
        return None


def _is_live(options: RunOptions, source: FrameSource) -> bool:
    """Return True for a camera or a stream, and False for a pipe, whose sender waits."""
    return source.live and reader_kind(options.source).live


def _may_end(source: Source) -> bool:
    """Return True if the first frame shows whether the source is live: a file on a web server, or a pipeline.

    The outputs of a live source are others than those of a file.
    """
    return str(source).lower().startswith(("http:", "https:", "gst:")) or " ! " in str(source)
