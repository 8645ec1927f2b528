"""Annotated videos."""

import contextlib
import math
import os
import shutil
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from idol_runtime.errors import ConfigError, OutputError
from idol_runtime.files import require_suffix, write_error
from idol_runtime.frames import Frame
from idol_runtime.optional import load_av, load_cv2
from idol_runtime.sinks.base import SinkContext
from idol_runtime.sinks.draw import DrawableResult, draw
from idol_runtime.sinks.parts import FileSink, Mode
from idol_runtime.sources.base import MAX_FPS

__all__ = ["VideoSink", "find_encoder"]

_FORMATS = {".mp4": "mp4", ".mkv": "matroska", ".avi": "avi"}
_MPEG4 = "mpeg4", "MPEG-4", {"flags": "+qscale", "global_quality": "354"}  # 118 times the quantizer 3
# Encoders with their codecs and options, in the order in which they are tried. Browsers play H.264 and VP9. Encoders in
# hardware come later: their quality and limits differ between machines.
_ENCODERS: tuple[tuple[str, str, dict[str, str]], ...] = (
    ("libx264", "H.264", {"crf": "20", "preset": "superfast"}),
    ("libopenh264", "H.264", {}),
    ("h264_nvenc", "H.264", {"delay": "0"}),
    ("h264_v4l2m2m", "H.264", {}),
    (
        "libvpx-vp9",
        "VP9",
        {"crf": "28", "b": "0", "deadline": "realtime", "cpu-used": "6", "lag-in-frames": "0"},
    ),
    _MPEG4,
)
_TICKS = 60_000  # per second: exact for the usual frame rates, and the most that MPEG-4 allows for them


_KEY_S = 10  # most seconds between two pictures at which a player can start
_FRAGMENT_US = "500000"  # a file that is cut off lacks at most this time and one frame
_GAP_S = 60  # an interruption of a live source after which its video continues in a new file
_MAX_GAP_S = 8 * 3600  # longest time between two frames; MP4 stores 2^31 ticks
_LEAST_FREE = 16 * 2**20  # bytes on the disk, for the index of the file


class VideoSink(FileSink):
    """A video of annotated frames at the times of the frames, without sound.

    A side of odd length grows by one repeated row or column. The last frame lasts `1 / fps` seconds. An AVI file is
    MPEG-4 and has one duration for all frames, so times are rounded to `fps`.

    MP4 and Matroska files are written in pieces of half a second, so that a file that is cut off can be played. A file
    that is completed has an index of all frames, except the MP4 file of a live source without `--rotate`: its memory
    must not grow. A frame of another size, and a live source that was interrupted for more than a minute, begin a new
    file.

    Raises:
        ConfigError: the frame rate is out of range, or an AVI file is to hold a live source without `--rotate`.
        OutputError: the file cannot be written, or its name has another suffix.
        MissingDependencyError: PyAV or OpenCV is not installed.
    """

    def __init__(self, target: str | Path, context: SinkContext) -> None:
        self._suffix = require_suffix(target, "a video", *_FORMATS)
        if not 0 < context.fps <= MAX_FPS:
            raise ConfigError(f"frames per second must lie between 0 and {MAX_FPS:g}, got {context.fps}")
        endless = context.live and not context.files.rotates
        if endless and self._suffix == ".avi":
            raise ConfigError(
                f"the index of an AVI file of a live source has no limit: {target}; add --rotate 1h, or write .mkv"
            )
        self._movflags = "empty_moov+default_base_moof+skip_trailer" if endless else "hybrid_fragmented"
        self._av = load_av("writing video")
        load_cv2("drawing results")
        super().__init__(target, context)
        self._rate = Fraction(context.fps).limit_denominator(1001)
        self._tick = 1 / self._rate if self._suffix == ".avi" else Fraction(1, _TICKS)
        find_encoder(self._av, self.path, rate=self._rate, tick=self._tick)

    @classmethod
    def check(cls, target: str) -> None:
        """Check the suffix of the file name, and that the file can be written."""
        require_suffix(target, "a video", *_FORMATS)
        super().check(target)

    def _reuse(self, path: Path) -> Mode | None:
        return "replace" if super()._reuse(path) == "replace" else None

    def _splits(self, frame: Frame) -> bool:
        gap_s = frame.time_s - self._last.time_s
        return frame.size != self._last.size or gap_s > (
            _GAP_S if frame.epoch != self._last.epoch else _MAX_GAP_S
        )

    def _begin(self, frame: Frame) -> None:
        height, width = frame.size
        self._canvas = np.empty((height, width, 3), np.uint8)
        self._start_s, self._pts, self._key, self._last = frame.time_s, -1, -math.inf, frame
        self._header = 0
        options = {
            "flush_packets": "1",
            **({"movflags": self._movflags, "frag_duration": _FRAGMENT_US} if self._suffix == ".mp4" else {}),
            **({"cluster_time_limit": str(int(_FRAGMENT_US) // 1000)} if self._suffix == ".mkv" else {}),
        }
        name, codec, encoder_options = find_encoder(self._av, self.path, frame.size, self._rate, self._tick)
        with self._errors():
            # A Python file, because PyAV raises its errors.
            self._container = self._av.open(self._file, "w", format=_FORMATS[self._suffix], options=options)
            self._stream = self._container.add_stream(name, rate=self._rate)
            _configure(self._stream.codec_context, frame.size, self._rate, self._tick, encoder_options)
        self._fact = f"{self.path} is {codec}, encoded by {name}"

    def _append(self, frame: Frame, result: DrawableResult) -> None:
        height, width = frame.size
        image = draw(
            frame.image, result, boxes=self.context.boxes, caption=self.context.caption, out=self._canvas
        )
        if height % 2 or width % 2:
            # Encoders store pairs of chroma samples, and would drop the last row or column.
            image = np.pad(image, ((0, height % 2), (0, width % 2), (0, 0)), "edge")
        picture = self._av.VideoFrame.from_ndarray(image, format="rgb24")
        self._pts = max(self._pts + 1, round((frame.time_s - self._start_s) / self._tick))
        picture.pts, picture.time_base = self._pts, self._tick
        if (self._pts - self._key) * self._tick >= _KEY_S:
            picture.pict_type, self._key = self._av.video.frame.PictureType.I, self._pts
        with self._errors():
            self._encode(picture)
        self._last = frame
        # Pieces are written as a whole. A file without one holds no frame.
        position = self._file.tell()
        self._header = self._header or position
        self._size = position if position > self._header else 0

    def _encode(self, picture: Any) -> None:
        """Encode a picture, or None for those that the encoder holds back, and write the packets."""
        for packet in self._stream.encode(picture):
            packet.duration = round(
                1 / self._rate / self._tick
            )  # of the last frame; others last until the next one
            self._container.mux(packet)

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except self._av.FFmpegError as error:
            raise write_error(self.path, error) from error

    def _check_disk(self) -> None:
        """Check the disk before it is full, which leaves room for the container's index."""
        try:
            free = shutil.disk_usage(self.path.parent).free
        except OSError as error:
            raise OutputError(
                f"cannot write {self.path}: its folder is gone ({error.strerror}); check that its disk is connected"
            ) from error
        if free < _LEAST_FREE:
            raise OutputError(f"cannot write {self.path}: the disk is full; free some space")

    def _end(self) -> None:
        with self._errors():
            self._encode(None)
            self._container.close()
        self._size = os.fstat(self._file.fileno()).st_size


def find_encoder(
    av: Any,
    path: Path,
    size: tuple[int, int] = (256, 256),
    rate: Fraction = Fraction(30),
    tick: Fraction = Fraction(1, 30),
) -> tuple[str, str, dict[str, str]]:
    """Return name, codec and options of the first encoder that this build and this machine have.

    Args:
        av: module of PyAV.
        path: path of the video; its suffix decides which encoders are tried.
        size: (h, w) of a frame in pixels.
        rate: frames per second.
        tick: unit of the frames' times in seconds.

    Raises:
        OutputError: no encoder can be opened.
    """
    reason = "none of its encoders is present"
    for name, codec, options in (_MPEG4,) if path.suffix.lower() == ".avi" else _ENCODERS:
        try:
            _configure(av.CodecContext.create(name, "w"), size, rate, tick, options).open()
        except (av.FFmpegError, ValueError) as error:  # ValueError: not in this build
            reason = str(error)
            continue
        return name, codec, options
    raise OutputError(f"PyAV cannot write {path}: {reason}; try another suffix, or JSON lines")


def _configure(
    codec: Any, size: tuple[int, int], rate: Fraction, tick: Fraction, options: dict[str, str]
) -> Any:
    height, width = size
    codec.width, codec.height = width + width % 2, height + height % 2
    codec.pix_fmt, codec.time_base, codec.framerate = "yuv420p", tick, rate
    codec.max_b_frames = 0  # frames in order, and none is held back
    codec.thread_type = "SLICE"  # threads that share a frame, for the same reason
    codec.colorspace, codec.color_range = 6, 1  # BT.601 in limited range, as FFmpeg converts RGB
    codec.options = options
    return codec
