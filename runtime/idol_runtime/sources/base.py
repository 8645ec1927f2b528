"""The protocol of a kind of frame source."""

import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from glob import has_magic
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from idol_runtime.frames import RGBImage

if TYPE_CHECKING:
    from idol_runtime.sources.live import LiveOptions

__all__ = ["MAX_FPS", "NOMINAL_FPS", "DecodingReader", "Reader", "Source", "local_path"]

Source: TypeAlias = str | int | Path  # a path, a glob pattern, a camera index, a pipeline or a URL

# A source that states a higher rate states its time base instead: 90000 for RTSP. Also the limit for written videos.
MAX_FPS = 1000.0
# Frame rate of sources that state none: for the times of image files, and for a video written from such a source.
NOMINAL_FPS = 30.0


class Reader(ABC):
    """An open source of one kind.

    To add a kind, write a subclass in a module of this folder and add it to `opening.KINDS`. The constructor takes
    the source, opens it and reads the first frame, so that a broken source is reported before any work is done.

    Attributes:
        name: name of the source for messages, without passwords.
        fps: frames per second; None if unknown.
        frame_count: number of frames; None if unknown.
        live: True for a source without an end of its own (a camera or a network stream); of the class: True for a kind
            with such sources.
        epoch: how often the source has been opened again.
        size: (height, width) of the first frame in pixels; of the last one read if a live source may change it, and
            None before it sends one.
        head: start of the data, by which a file that a server sends again is recognised; None where it cannot be one.
        time_s: time of the last frame read, in seconds.
        notes: remarks on the source for the user, complete after the last frame.
    """

    name: str
    fps: float | None = None
    frame_count: int | None = None
    live = False
    epoch = 0
    size: tuple[int, int] | None
    head: bytes | None = None
    time_s = 0.0
    notes: Sequence[str] = ()

    @abstractmethod
    def __init__(self, source: Source) -> None: ...

    @classmethod
    @abstractmethod
    def accepts(cls, source: Source) -> bool:
        """Return True if the source is of this kind."""

    @classmethod
    def label(cls, source: Source) -> str:
        """Return a short name for output file names, without passwords.

        Here for local sources: the stem of a file, the name of a folder, or of the folder that a pattern searches.
        """
        path = local_path(source)
        try:
            if not path.exists():
                while has_magic(str(path)):
                    path = path.parent
            path = path.resolve()
            return path.name if path.is_dir() else path.stem
        except (OSError, ValueError, RuntimeError):  # an impossible file name, or symbolic links in a circle
            return path.stem

    @classmethod
    def paths(cls, source: Source) -> list[Path]:
        """Return the local files and image folders that the source is read from."""
        return []

    @classmethod
    def open_live(cls, source: Source, live: "LiveOptions") -> "Reader":
        """Open a source that is supervised; the default uses no limit of `live`."""
        return cls(source)

    @classmethod
    def title(cls, source: Source) -> str:
        """Return the name of a source for messages, without passwords."""
        return str(source)

    @classmethod  # noqa: B027 - an optional check
    def check(cls, source: Source) -> None:
        """Check what can be known of a source before it is opened; the default accepts everything."""

    def describe(self, index: int) -> str:
        """Return a description of frame `index` for messages."""
        return f"frame {index} of {self.name}"

    @abstractmethod
    def read(self) -> RGBImage | None:
        """Return the next frame, [H, W, 3] uint8 RGB; None at the end."""

    @abstractmethod
    def skip(self) -> bool:
        """Skip the next frame; return False at the end."""

    @abstractmethod
    def close(self) -> None:
        """Release the file, the camera or the connection."""

    def stop(self) -> None:  # noqa: B027 - only for kinds that wait
        """End a wait of `read` or `skip` in another thread; the default does nothing."""


class DecodingReader(Reader):
    """A reader whose constructor decodes the first frame and stores it in `_first`."""

    _first: RGBImage | None

    def read(self) -> RGBImage | None:
        """Return the next frame, [H, W, 3] uint8 RGB; None at the end."""
        image, self._first = self._first, None
        return self._decode() if image is None else image

    def skip(self) -> bool:
        """Skip the next frame; return False at the end."""
        image, self._first = self._first, None
        return image is not None or self._advance()

    @abstractmethod
    def _decode(self) -> RGBImage | None:
        """Return the frame after the first one or after the last one decoded or skipped; None at the end."""

    @abstractmethod
    def _advance(self) -> bool:
        """Skip that frame; return False at the end."""


def local_path(source: Source) -> Path:
    """Return the path of a local source, with `~` replaced by the home directory where that exists."""
    try:
        # Path.expanduser raises an error for an unknown user; os.path.expanduser leaves the path unchanged.
        return Path(os.path.expanduser(str(source)))
    except ValueError:  # a NUL character in the user's name
        return Path(str(source))
