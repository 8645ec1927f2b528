"""Frames in: a video, a folder or glob of images, a camera or a network stream.

    with open_source("street.mp4") as source:
        for frame in source:
            ...

The first frame is read on opening, so that a source without one is told before anything else is loaded.
"""

import contextlib
import glob
import os
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Protocol

from idol_runtime.errors import ConfigError, FrameError, SourceError
from idol_runtime.frames import Frame, RGBImage
from idol_runtime.sources.captures import CaptureReader, redact
from idol_runtime.sources.images import IMAGE_EXTENSIONS, ImageReader, list_images

__all__ = ["STREAM_SCHEMES", "FrameSource", "Reader", "local_path", "open_source", "source_places"]

# All of them fit OpenCV's int; more digits are a file's name.
_INDEX = re.compile(r"-?[0-9]{1,9}")
_LAST_CAMERA = 10**9 - 1
STREAM_SCHEMES = ("rtsp", "rtsps", "rtmp", "rtmps", "http", "https", "udp", "srt")


class Reader(Protocol):
    """Where a `FrameSource` takes its frames from: image files or an OpenCV capture."""

    @property
    def name(self) -> str:
        """The source for messages, without secrets."""

    @property
    def fps(self) -> float | None:
        """Frames per second; None if unknown."""

    @property
    def frame_count(self) -> int | None:
        """Number of frames; None if unknown."""

    @property
    def live(self) -> bool:
        """Whether it has no end of its own."""

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the first frame in pixels."""

    @property
    def time_s(self) -> float:
        """Time of the frame read last, in seconds."""

    def describe(self, index: int) -> str:
        """Which frame of which file."""

    def read(self) -> RGBImage | None:
        """The next frame, [H, W, 3] uint8 RGB; None at the end."""

    def skip(self) -> bool:
        """Pass over the next frame; False at the end."""

    def close(self) -> None:
        """Let go of the file, the camera or the connection."""


class FrameSource:
    """An open source of frames: iterate once, then close.

    Attributes:
        name: the source for messages and progress bars, without secrets.
        fps: frames that are yielded per second of the source, after the stride; None if unknown.
        frame_count: frames that will be yielded, after stride and `max_frames`; None if unknown. For a video
            it is the container's estimate.
        size: (height, width) of every frame in pixels.
        live: whether the source has no end of its own (a camera or a stream).
    """

    def __init__(self, reader: Reader, *, stride: int = 1, max_frames: int | None = None) -> None:
        self._reader = reader
        self._stride = stride
        self._max_frames = max_frames
        self._state = "open"
        self._reading = threading.Lock()
        self.name = reader.name
        self.fps = reader.fps / stride if reader.fps else None
        self.size: tuple[int, int] | None = reader.size
        self.live = reader.live
        self.frame_count = None if reader.frame_count is None else -(-reader.frame_count // stride)
        if self.frame_count is not None and max_frames is not None:
            self.frame_count = min(self.frame_count, max_frames)

    def __enter__(self) -> "FrameSource":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __iter__(self) -> Iterator[Frame]:
        """Yield the frames, once.

        Raises:
            FrameError: a frame of another size than the first, or of more than 8 bits.
            SourceError: a frame that cannot be read, a lost camera or stream, or a second iteration. What
                was readable before it has been yielded.
        """
        if self._state != "open":
            raise SourceError(f"{self.name} is {self._state}; open it again to read it again")
        self._state = "already being read"
        return self._frames()

    def close(self) -> None:
        """Let go of the file, the camera or the connection; safe to call twice, and while another thread reads.

        Nobody waits for that thread: it lets go itself when it has its frame, or with the process.
        """
        self._state = "closed"
        self._let_go()

    def _frames(self) -> Iterator[Frame]:
        index = yielded = 0
        while True:
            image = self._read(index)
            if image is None:
                return
            yield Frame(index, self._reader.time_s, image)
            yielded += 1
            if yielded == self._max_frames:
                return
            if not self._skip():
                return
            index += self._stride

    @contextlib.contextmanager
    def _turn(self) -> Iterator[None]:
        """The reader for one thread; a source that was closed meanwhile is let go of on the way out."""
        try:
            with self._reading:
                yield
        finally:
            if self._state == "closed":
                self._let_go()

    def _let_go(self) -> None:
        if self._reading.acquire(blocking=False):
            try:
                self._reader.close()
            finally:
                self._reading.release()

    def _read(self, index: int) -> RGBImage | None:
        with self._turn():
            image = None if self._state == "closed" else self._reader.read()
        if image is not None:
            self._check_size(index, image)
        return image

    def _skip(self) -> bool:
        """Pass over what the stride leaves out."""
        with self._turn():
            return self._state != "closed" and all(self._reader.skip() for _ in range(self._stride - 1))

    def _check_size(self, index: int, image: RGBImage) -> None:
        size = image.shape[0], image.shape[1]
        if size != self.size and self.size is not None:
            raise FrameError(
                f"{self._reader.describe(index)} is {size[0]}x{size[1]} (height x width) and those before it "
                f"{self.size[0]}x{self.size[1]}; give frames of one size, or each part as its own source"
            )


def open_source(source: str | int | Path, *, stride: int = 1, max_frames: int | None = None) -> FrameSource:
    """Open a source of frames.

    Args:
        source: a video or image file, a folder of images, a glob of images, a camera index (`0` or `"0"`), or
            a URL (`STREAM_SCHEMES`). Images come in natural order: frame2 before frame10.
        stride: keep every stride-th frame.
        max_frames: stop after this many kept frames.

    Raises:
        ConfigError: stride or max_frames below 1.
        SourceError: not found, not readable, or without frames.
        FrameError: the first image has more than 8 bits a channel.
        MissingDependencyError: OpenCV, which video, cameras and streams need, is not installed.
    """
    if stride < 1:
        raise ConfigError(f"stride must be at least 1, got {stride}")
    if max_frames is not None and max_frames < 1:
        raise ConfigError(f"max_frames must be at least 1, got {max_frames}")
    return FrameSource(_open_reader(source), stride=stride, max_frames=max_frames)


def local_path(source: str | int | Path) -> Path | None:
    """The file, folder or glob that a source is, with its home put in; None for a camera or a stream."""
    if isinstance(source, int) or (isinstance(source, str) and (_INDEX.fullmatch(source) or "://" in source)):
        return None
    try:
        # Unlike Path.expanduser, it leaves a home that nobody has as it is.
        return Path(os.path.expanduser(source))
    except ValueError:  # a NUL in the user's name
        return Path(source)


def source_places(source: str | int | Path) -> list[Path]:
    """Every file that a source is read from, and the folders of images; none of a camera, a stream or nothing."""
    path = local_path(source)
    if path is None:
        return []
    if os.path.isfile(path):  # unlike Path.is_file, False for a name that no file can have
        return [path]
    # A folder that may not be read has none; opening it says so.
    pattern = glob.escape(str(path)) + "/*" if os.path.isdir(path) else str(path)
    found = map(Path, glob.glob(pattern, recursive=True))
    images = [image for image in found if image.suffix.lower() in IMAGE_EXTENSIONS]
    return [*{image.parent for image in images}, *images]


def _open_reader(source: str | int | Path) -> Reader:
    if source == "":
        raise SourceError("the source is empty; give a path, a URL or a camera index")
    if (path := local_path(source)) is not None:
        return _open_path(path, str(source))
    assert not isinstance(source, Path)
    if isinstance(source, str) and "://" in source:
        return _open_stream(source)
    return _open_camera(source)


def _open_camera(source: str | int) -> Reader:
    index = -1 if isinstance(source, bool) else int(source)
    if not 0 <= index <= _LAST_CAMERA:
        raise SourceError(f"a camera index lies between 0 and {_LAST_CAMERA}; the first camera is 0")
    return CaptureReader(index, f"camera {index}")


def _open_stream(url: str) -> Reader:
    scheme = url.partition("://")[0].lower()
    if scheme not in STREAM_SCHEMES:
        raise SourceError(
            f"cannot read {redact(url)}: a stream's URL begins with one of {' '.join(STREAM_SCHEMES)}; "
            "a local file is given by its path"
        )
    return CaptureReader(url, redact(url))


def _open_path(path: Path, name: str) -> Reader:
    try:
        if path.is_dir():
            return ImageReader(list_images(list(path.iterdir()), f"folder {name}"), name)
        if not path.exists():
            return _open_glob(path, name)
        if path.suffix.lower() in IMAGE_EXTENSIONS:
            return ImageReader([path], name)
        with path.open("rb") as file:
            if not file.read(1):
                raise SourceError(f"{name} is an empty file (0 bytes); copy it again")
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        reason = getattr(error, "strerror", None) or error
        raise SourceError(f"cannot read {name}: {reason}; check the path and its permissions") from error
    return CaptureReader(str(path), name)


def _open_glob(path: Path, name: str) -> Reader:
    if not glob.has_magic(name):
        raise SourceError(f"{name} does not exist; check the path")
    matches = [Path(match) for match in glob.glob(str(path), recursive=True)]
    if not matches:
        raise SourceError(f"{name} matches no file; check the pattern, and quote it against the shell")
    return ImageReader(list_images(matches, f"glob {name}"), name)
