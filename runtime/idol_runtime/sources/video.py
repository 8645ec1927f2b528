"""Video files as a frame source."""

import os
from pathlib import Path

from idol_runtime.errors import SourceError
from idol_runtime.sources.base import Source, local_path
from idol_runtime.sources.capture import CaptureReader

__all__ = ["VideoReader"]


class VideoReader(CaptureReader):
    """A video file; any path that is no other kind of source, so that a missing file is reported as one."""

    hint = "check that a video player plays it"
    open_error = "{name} is not a video that OpenCV can read, or is cut short; " + hint

    def __init__(self, source: Source) -> None:
        """Open a video file.

        Args:
            source: path of the file.

        Raises:
            MissingDependencyError: OpenCV is not installed.
            SourceError: the file does not exist, cannot be read, is empty, or is no video.
        """
        path = local_path(source)
        try:
            with path.open("rb") as file:
                empty = not file.read(1)
        except FileNotFoundError as error:
            raise SourceError(f"{source} does not exist; check the path") from error
        except (OSError, ValueError) as error:  # ValueError: a NUL character in the path
            reason = getattr(error, "strerror", None) or error
            raise SourceError(
                f"cannot read {source}: {reason}; check the path and its permissions"
            ) from error
        if empty:
            raise SourceError(f"{source} is an empty file (0 bytes); copy it again")
        super().__init__(str(path), str(source))

    @classmethod
    def accepts(cls, source: Source) -> bool:
        """Return True: this is the last kind to be tried."""
        return True

    @classmethod
    def paths(cls, source: Source) -> list[Path]:
        """Return the file, if it exists."""
        path = local_path(source)
        # os.path.isfile, unlike Path.is_file, returns False for an impossible file name.
        return [path] if os.path.isfile(path) else []
