"""Annotated videos."""

import contextlib
import shutil
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from idol_runtime.errors import ConfigError, FrameError, OutputError
from idol_runtime.files import require_suffix
from idol_runtime.frames import Frame
from idol_runtime.optional import load_av, load_cv2
from idol_runtime.sinks.base import FileSink, SinkContext
from idol_runtime.sinks.draw import DrawableResult, draw
from idol_runtime.sources.base import MAX_FPS

__all__ = ["VideoSink"]

_FORMATS = {".mp4": "mp4", ".mkv": "matroska", ".avi": "avi"}
_MPEG4 = "mpeg4", "MPEG-4", {"flags": "+qscale", "global_quality": "354"}  # 118 times the quantizer 3
# Encoders with their codecs and options, in the order in which they are tried. Browsers play H.264 and VP9. Encoders in
# hardware come later: their quality and limits differ between machines.
_ENCODERS: tuple[tuple[str, str, dict[str, str]], ...] = (
    ("libx264", "H.264", {"crf": "20", "preset": "superfast"}),
    ("libopenh264", "H.264", {}),
    ("h264_nvenc", "H.264", {}),
    ("h264_v4l2m2m", "H.264", {}),
    ("libvpx-vp9", "VP9", {"crf": "28", "b": "0", "deadline": "realtime", "cpu-used": "6"}),
    _MPEG4,
)
_TICKS = 60_000  # per second: exact for the usual frame rates, and the most that MPEG-4 allows for them


class VideoSink(FileSink):
    """A video of annotated frames at the times of the frames, without sound.

    A side of odd length grows by one repeated row or column. The last frame lasts `1 / fps` seconds. An AVI file is
    MPEG-4 and has one duration for all frames, so times are rounded to `fps`.

    Raises:
        ConfigError: the frame rate is out of range.
        OutputError: the file cannot be written, or its name has another suffix.
        MissingDependencyError: PyAV or OpenCV is not installed.
    """

    def __init__(self, target: str | Path, context: SinkContext) -> None:
        suffix = require_suffix(target, "a video", *_FORMATS)
        if not 0 < context.fps <= MAX_FPS:
            raise ConfigError(f"frames per second must lie between 0 and {MAX_FPS:g}, got {context.fps}")
        self._av = load_av("writing video")
        load_cv2("drawing results")
        super().__init__(target, context)
        height, width = context.size
        self._canvas = np.empty((height, width, 3), np.uint8)
        self._rate = Fraction(context.fps).limit_denominator(1001)
        self._tick = 1 / self._rate if suffix == ".avi" else Fraction(1, _TICKS)
        self._start_s, self._pts = 0.0, -1
        self._held: Any = None  # the last packet, whose duration the next one tells
        self._file = self._temporary.open("wb")  # a Python file: PyAV raises its errors
        try:
            with self._errors():
                self._container = self._av.open(self._file, "w", format=_FORMATS[suffix])
                self._stream = self._add_stream(suffix)
        except OutputError:
            self.abort()
            raise

    @classmethod
    def check(cls, target: str) -> None:
        """Check the suffix of the file name."""
        require_suffix(target, "a video", *_FORMATS)

    def write(self, frame: Frame, result: DrawableResult) -> None:
        """Draw and append one frame.

        Raises:
            FrameError: the frame has another size than the video.
            OutputError: the disk is full or no longer connected.
        """
        height, width = self.context.size
        if frame.size != (height, width):
            raise FrameError(
                f"frame {frame.index} is {frame.size[0]}x{frame.size[1]}, but the video is {height}x{width}; "
                "give frames of one size"
            )
        self._check_disk()
        image = draw(
            frame.image, result, boxes=self.context.boxes, caption=self.context.caption, out=self._canvas
        )
        if height % 2 or width % 2:
            # Encoders store pairs of chroma samples, and would drop the last row or column.
            image = np.pad(image, ((0, height % 2), (0, width % 2), (0, 0)), "edge")
        if not self.frames_written:
            self._start_s = frame.time_s
        picture = self._av.VideoFrame.from_ndarray(image, format="rgb24")
        self._pts = max(self._pts + 1, round((frame.time_s - self._start_s) / self._tick))
        picture.pts, picture.time_base = self._pts, self._tick
        with self._errors():
            self._encode(picture)
        self.frames_written += 1

    def _add_stream(self, suffix: str) -> Any:
        """Add a stream with the first encoder that this build and this machine have."""
        reason = "none of its encoders is present"
        for name, codec, options in (_MPEG4,) if suffix == ".avi" else _ENCODERS:
            try:
                # Opened on trial, because a stream cannot be removed from the container.
                self._configure(self._av.CodecContext.create(name, "w"), options).open()
            except (self._av.FFmpegError, ValueError) as error:  # ValueError: not in this build
                reason = str(error)
                continue
            stream = self._container.add_stream(name, rate=self._rate)
            self._configure(stream.codec_context, options)
            self.note = f"{self.path} is {codec}, encoded by {name}"
            return stream
        raise OutputError(f"PyAV cannot write {self.path}: {reason}; try another suffix, or JSON lines")

    def _configure(self, codec: Any, options: dict[str, str]) -> Any:
        height, width = self.context.size
        codec.width, codec.height = width + width % 2, height + height % 2
        codec.pix_fmt, codec.time_base, codec.framerate = "yuv420p", self._tick, self._rate
        codec.max_b_frames = 0  # frames in order, so that each packet's duration is known from the next one
        codec.colorspace, codec.color_range = 6, 1  # BT.601 in limited range, as FFmpeg converts RGB
        codec.options = options
        return codec

    def _encode(self, picture: Any) -> None:
        """Encode a picture, or None for those that the encoder holds back, and write the packets."""
        for packet in self._stream.encode(picture):
            if self._held is not None:
                self._held.duration = packet.pts - self._held.pts
                self._container.mux(self._held)
            self._held = packet

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except (self._av.FFmpegError, OSError) as error:
            reason = error.strerror or error
            raise OutputError(
                f"cannot write {self.path}: {reason}; check its disk, and free some space"
            ) from error

    def _check_disk(self) -> None:
        """Check the disk before it is full, which leaves room for the container's index."""
        try:
            free = shutil.disk_usage(self.path.parent).free
        except OSError as error:
            raise OutputError(
                f"cannot write {self.path}: its folder is gone ({error.strerror}); check that its disk is connected"
            ) from error
        if free < 16 * 2**20:
            raise OutputError(f"cannot write {self.path}: the disk is full; free some space")

    def _finish(self) -> None:
        with contextlib.closing(self._file), self._errors():
            if self.frames_written:
                self._encode(None)
                self._held.duration = round(1 / self._rate / self._tick)
                self._container.mux(self._held)
                self._container.close()
            self._file.flush()
