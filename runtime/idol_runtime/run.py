"""A whole run: a source through the pipeline into files and windows, with a progress bar.

Reading and resizing run ahead of the network in a thread, drawing and writing behind it in another; a window stays in
the caller's, where windows must be.
"""

import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

from idol_runtime.errors import ConfigError
from idol_runtime.frames import Frame
from idol_runtime.images import NOMINAL_FPS
from idol_runtime.overlap import Behind, ahead
from idol_runtime.pipeline import Pipeline
from idol_runtime.results import FrameResult
from idol_runtime.results_sink import ResultsSink
from idol_runtime.sinks import DisplaySink, JsonlSink, MaskSink, Sink, VideoSink
from idol_runtime.sources import FrameSource, open_source
from idol_runtime.stream import Prepared

__all__ = ["RunOptions", "RunSummary", "run"]

T = TypeVar("T")
_Tracked: TypeAlias = tuple[Frame, FrameResult, FrameResult]  # all that was found, and what is shown of it


@dataclass(frozen=True)
class RunOptions:
    """What to read, and what to write.

    Attributes:
        source: video file, image folder or glob, camera index or URL.
        save: annotated video.
        jsonl: one JSON object per frame.
        results: results of the whole video, in the YouTube-VIS / OVIS submission format.
        masks: folder of id masks.
        display: show a window.
        boxes: draw boxes as well.
        score: instances below this are neither drawn nor listed; `results` holds all, as published.
        latest: of a camera or stream, take the newest frame and lose those that came while the network was busy.
        stride: take every n-th frame.
        max_frames: stop after this many.
        video_id: of the entries in `results`.
    """

    source: str | int | Path
    save: Path | None = None
    jsonl: Path | None = None
    results: Path | None = None
    masks: Path | None = None
    display: bool = False
    boxes: bool = False
    score: float = 0.0
    latest: bool = False
    stride: int = 1
    max_frames: int | None = None
    video_id: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.score <= 1:
            raise ConfigError(f"score must lie between 0 and 1, got {self.score}")


@dataclass
class RunSummary:
    """What came of a run.

    Attributes:
        frames: frames processed.
        tracks: identities seen.
        interrupted: stopped by Ctrl-C, or in the window.
        outputs: what was written.
    """

    frames: int = 0
    tracks: int = 0
    interrupted: bool = False
    outputs: tuple[Path, ...] = ()


def run(pipeline: Pipeline, options: RunOptions) -> RunSummary:
    """Process a source to its end, to `max_frames`, or to Ctrl-C; every output is finished properly.

    Raises:
        SourceError: the source cannot be read; what came before it is written.
        FrameError: a frame cannot be processed; likewise.
        OutputError: an output cannot be written.
    """
    outputs = tuple(p for p in (options.save, options.jsonl, options.results, options.masks) if p is not None)
    _refuse_twice(outputs)
    summary = RunSummary(outputs=outputs)
    # Identities number from 0 without gaps, so their count needs no set that grows with the stream.
    highest = -1
    pipeline.reset()
    with open_source(options.source, stride=options.stride, max_frames=options.max_frames) as source:
        if options.latest and not source.live:
            raise ConfigError(
                f"{source.name} waits to be read and loses nothing; leave --latest (latest=True) out"
            )
        try:
            with contextlib.ExitStack() as stack:
                windows, drawn, collected = _sinks(pipeline, options, source)
                for sink in (*windows, *drawn, *collected):
                    stack.enter_context(sink)
                behind = stack.enter_context(
                    Behind[_Tracked](lambda tracked: _write(drawn, collected, tracked))
                )
                frames = stack.enter_context(_prepared(pipeline, source, options.latest))
                for (frame, prepared), bar in _progress(frames, source, stack):
                    result = pipeline.track(prepared)
                    shown = result.above(options.score)
                    behind.submit((frame, result, shown))
                    for window in windows:
                        window.write(frame, shown)
                    summary.frames += 1
                    highest = max(highest, *result.ids.tolist(), -1)
                    summary.tracks = highest + 1
                    bar.set_postfix(tracks=summary.tracks, now=len(shown), refresh=False)
                    if any(window.stopped for window in windows):
                        summary.interrupted = True
                        break
        except KeyboardInterrupt:
            summary.interrupted = True
    return summary


def _prepared(
    pipeline: Pipeline, source: FrameSource, latest: bool
) -> contextlib.AbstractContextManager[Iterator[tuple[Frame, Prepared]]]:
    """The frames of a source, read ahead, and resized there unless some of them will be lost."""

    def prepare(frames: Iterable[Frame]) -> Iterator[tuple[Frame, Prepared]]:
        for frame in frames:
            yield frame, pipeline.prepare(frame.image)

    @contextlib.contextmanager
    def of_latest() -> Iterator[Iterator[tuple[Frame, Prepared]]]:
        with ahead(source, newest=True) as frames:
            yield prepare(frames)

    return of_latest() if latest else ahead(prepare(source))


def _write(drawn: list[Sink], collected: list[Sink], tracked: _Tracked) -> None:
    frame, result, shown = tracked
    for sink in collected:
        sink.write(frame, result)
    for sink in drawn:
        sink.write(frame, shown)


def _refuse_twice(outputs: tuple[Path, ...]) -> None:
    resolved = [path.resolve() for path in outputs]
    if len(set(resolved)) < len(resolved):
        raise ConfigError("two outputs have the same name; give each its own")


def _sinks(
    pipeline: Pipeline, options: RunOptions, source: FrameSource
) -> tuple[list[Sink], list[Sink], list[Sink]]:
    """Windows, other sinks of what is shown, and sinks of everything; all check their place now."""
    caption = pipeline.note or None
    windows: list[Sink] = []
    drawn: list[Sink] = []
    collected: list[Sink] = []
    with contextlib.ExitStack() as undo:

        def add(sinks: list[Sink], sink: Sink) -> None:
            undo.callback(sink.abort)
            sinks.append(sink)

        if options.save is not None:
            add(drawn, _video(options.save, options, source, caption))
        if options.jsonl is not None:
            add(drawn, JsonlSink(options.jsonl))
        if options.masks is not None:
            add(drawn, MaskSink(options.masks))
        if options.results is not None:
            add(collected, ResultsSink(options.results, pipeline.config, options.video_id))
        if options.display:
            add(windows, DisplaySink(boxes=options.boxes, caption=caption))
        undo.pop_all()
    return windows, drawn, collected


def _video(path: Path, options: RunOptions, source: FrameSource, caption: str | None) -> VideoSink:
    assert source.size is not None
    fps = source.fps or NOMINAL_FPS
    return VideoSink(path, fps=fps, size=source.size, boxes=options.boxes, caption=caption)


class _NoBar:
    """Stands in for a progress bar where tqdm is not installed."""

    def set_postfix(self, **_: object) -> None:
        """Show nothing."""


def _progress(
    frames: Iterator[T], source: FrameSource, stack: contextlib.ExitStack
) -> Iterator[tuple[T, Any]]:
    """Each frame with the bar that counts it; the bar shows only on a terminal."""
    try:
        from tqdm import tqdm
    except ImportError:
        yield from ((frame, _NoBar()) for frame in frames)
        return
    bar = stack.enter_context(tqdm(total=source.frame_count, unit="frame", disable=None, desc=source.name))
    for frame in frames:
        yield frame, bar
        bar.update()
