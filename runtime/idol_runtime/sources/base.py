"""The protocol of a kind of frame source."""

import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from glob import has_magic
from pathlib import Path
from typing import TypeAlias

from idol_runtime.frames import RGBImage

__all__ = ["MAX_FPS", "NOMINAL_FPS", "Reader", "Source", "local_path"]

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
        live: True for a source without an end of its own (a camera or a network stream).
        size: (height, width) of the first frame in pixels.
        time_s: time of the last frame read, in seconds.
        notes: remarks on the source for the user, complete after the last frame.
    """

    name: str
    fps: float | None = None
    frame_count: int | None = None
    live = False
    size: tuple[int, int]
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


def local_path(source: Source) -> Path:
    """Return the path of a local source, with `~` replaced by the home directory where that exists."""
    try:
        # Path.expanduser raises an error for an unknown user; os.path.expanduser leaves the path unchanged.
        return Path(os.path.expanduser(str(source)))
    except ValueError:  # a NUL character in the user's name
        return Path(str(source))
