"""Local cameras as a frame source."""

import re
from typing import Any

from idol_runtime.errors import SourceError
from idol_runtime.sources.base import Source
from idol_runtime.sources.capture import CaptureReader

__all__ = ["CameraReader"]

# Nine digits fit OpenCV's int; a longer number is a file name.
_INDEX = re.compile(r"-?[0-9]{1,9}")
_LAST_CAMERA = 10**9 - 1


class CameraReader(CaptureReader):
    """A camera of this machine, given by its index."""

    open_error = "cannot open {name}; check that it is plugged in (on Linux: ls /dev/video*) and not in use"
    hint = "check that the camera is sending"

    def __init__(self, source: Source) -> None:
        """Open a camera.

        Args:
            source: camera index, as a number or as text.

        Raises:
            MissingDependencyError: OpenCV is not installed.
            SourceError: the index is out of range, or the camera cannot be opened or sends no frame.
        """
        index = -1 if isinstance(source, bool) else int(str(source))
        if not 0 <= index <= _LAST_CAMERA:
            raise SourceError(
                f"camera index out of range: {source}; a camera index lies between 0 and {_LAST_CAMERA}, "
                "and the first camera is 0"
            )
        super().__init__(index, f"camera {index}")

    @classmethod
    def accepts(cls, source: Source) -> bool:
        """Return True for a whole number of up to nine digits."""
        return isinstance(source, int) or (isinstance(source, str) and bool(_INDEX.fullmatch(source)))

    @classmethod
    def label(cls, source: Source) -> str:
        """Return `camera` and the index."""
        return f"camera{source}"

    def _is_live(self, count: float | None) -> bool:
        return True

    def _reconnect(self) -> bool:
        raise SourceError(
            f"{self.name} stopped sending at frame {self._next}; check its cable, and that no other program uses it"
        )

    def _open(self) -> Any:
        capture = super()._open()
        if capture.isOpened():
            # Read the newest frame, not the oldest one in a queue; a driver without this setting ignores it.
            capture.set(self._cv2.CAP_PROP_BUFFERSIZE, 1)
        return capture
