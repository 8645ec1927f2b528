"""The registry of source kinds, and the functions that choose a kind for a source."""

import functools
import re
from pathlib import Path

from idol_runtime.errors import ConfigError, SourceError
from idol_runtime.events import Tell, log_event
from idol_runtime.signals import interruptible
from idol_runtime.sources.animation import AnimationReader
from idol_runtime.sources.base import Reader, Source
from idol_runtime.sources.camera import CameraReader
from idol_runtime.sources.frame_source import FrameSource
from idol_runtime.sources.gstreamer import PipelineReader
from idol_runtime.sources.images import ImageReader
from idol_runtime.sources.live import LiveOptions, LiveReader
from idol_runtime.sources.stream import StreamReader
from idol_runtime.sources.video import VideoReader

__all__ = ["KINDS", "open_source", "reader_kind", "source_label", "source_paths"]

# Kinds in the order in which they are tried; VideoReader accepts everything and must be last.
KINDS: list[type[Reader]] = [
    CameraReader,
    PipelineReader,
    StreamReader,
    AnimationReader,
    ImageReader,
    VideoReader,
]


def open_source(
    source: Source,
    *,
    stride: int = 1,
    max_frames: int | None = None,
    live: LiveOptions | None = None,
    tell: Tell = log_event,
) -> FrameSource:
    """Open a source of frames and read its first frame; with `live`, a camera or a stream is opened by its first frame.

        with open_source("street.mp4") as source:
            for frame in source:
                ...

    Args:
        source: a video or image file, a folder of images, a glob pattern of images, a pipe, a camera (`0`, `"0"`,
            `/dev/video0`, `csi:0` or `v4l2:PATH`), a URL (`STREAM_SCHEMES`), or a GStreamer pipeline (`gst:TEXT`, or
            any text with ` ! `). Text that is an existing path is a path.
            Images are sorted in natural order: frame2 before frame10.
        stride: yield every stride-th frame; a higher value skips more frames.
        max_frames: maximum number of frames to yield; None for all.
        live: rules for a camera or a network stream that is dead or gets lost; None: both are errors.
        tell: function that receives the events of a camera or stream with `live`.

    Raises:
        ConfigError: stride or max_frames is below 1, or a GStreamer pipeline is invalid.
        SourceError: the source is not found, cannot be read, or has no frames.
        FrameError: the first image has more than 8 bits per channel.
        MissingDependencyError: PyAV, which reads videos and streams, or OpenCV, which reads cameras, is not installed.
    """
    if stride < 1:
        raise ConfigError(f"stride must be at least 1, got {stride}")
    if max_frames is not None and max_frames < 1:
        raise ConfigError(f"max_frames must be at least 1, got {max_frames}")
    if source == "":
        raise SourceError("the source is empty; give a path, a URL or a camera index")
    kind = reader_kind(source)
    kind.check(source)
    reader: Reader
    if live is not None and kind.live:
        open_reader = functools.partial(kind.open_live, source, live)
        reader = LiveReader(kind.title(source), open_reader, live, tell)
    else:
        reader = interruptible(lambda: kind(source))
    return FrameSource(reader, stride=stride, max_frames=max_frames)


def reader_kind(source: Source) -> type[Reader]:
    """Return the first kind in `KINDS` that accepts the source."""
    return next(kind for kind in KINDS if kind.accepts(source))


def source_label(source: Source) -> str:
    """Return the name of a source in output file names: a video's stem, a folder's name, a URL's host and path.

    Example:
        >>> [source_label(s) for s in ("a/street.mp4", "yard/*.png", 0, "rtsp://me:secret@10.0.0.5:554/live?key=1")]
        ['street', 'yard', 'camera0', '10.0.0.5_554_live']
    """
    return re.sub(r"[^\w.-]+", "_", reader_kind(source).label(source)).strip("_.") or "source"


def source_paths(source: Source) -> list[Path]:
    """Return the local files and image folders that a source is read from; empty for a camera or a stream."""
    return reader_kind(source).paths(source)
