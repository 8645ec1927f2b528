"""Local cameras as a frame source."""

import os
import re
from typing import Any

from idol_runtime.errors import SourceError
from idol_runtime.optional import load_cv2
from idol_runtime.sources.base import Source
from idol_runtime.sources.capture import CaptureReader

__all__ = ["CameraReader"]

# Nine digits fit OpenCV's int; a longer number is a file name.
_INDEX = re.compile(r"-?[0-9]{1,9}")
_LAST_CAMERA = 10**9 - 1
_DEVICE = re.compile(r"/dev/video[0-9]+")


class CameraReader(CaptureReader):
    """A camera of this machine, given by its index or, on Linux, by its device."""

    open_error = "cannot open {name}; check that it is plugged in (on Linux: ls /dev/video*) and not in use"
    end_error = "{name} stopped sending at frame {index}; check its cable, and that no other program uses it"
    hint = "check that the camera is sending"

    def __init__(self, source: Source) -> None:
        """Open a camera.

        Args:
            source: camera index, as a number or as text, or a path such as `/dev/video0` or a link to one.

        Raises:
            MissingDependencyError: OpenCV is not installed.
            SourceError: the camera cannot be opened or sends no frame.
        """
        self._device = _device(source)
        self._index = 0 if self._device else int(str(source))
        super().__init__(self.title(source))

    @classmethod
    def check(cls, source: Source) -> None:
        """Check that OpenCV is installed and that a camera can have the index."""
        load_cv2("reading a camera")
        if _device(source) is None and (
            isinstance(source, bool) or not 0 <= int(str(source)) <= _LAST_CAMERA
        ):
            raise SourceError(
                f"camera index out of range: {source}; a camera index lies between 0 and {_LAST_CAMERA}, "
                "and the first camera is 0"
            )

    @classmethod
    def title(cls, source: Source) -> str:
        """Return `camera` and the index or the device."""
        return f"camera {source}"

    @classmethod
    def accepts(cls, source: Source) -> bool:
        """Return True for a video device, and for a whole number of up to nine digits that is no existing path."""
        if isinstance(source, int) or _device(source):
            return True
        return isinstance(source, str) and bool(_INDEX.fullmatch(source)) and not os.path.lexists(source)

    @classmethod
    def label(cls, source: Source) -> str:
        """Return `camera` and the index."""
        device = _device(source)
        return f"camera{source}" if device is None else device.removeprefix("/dev/")

    def _open(self) -> Any:
        cv2 = self._cv2
        target = (self._index, cv2.CAP_ANY) if self._device is None else (self._device, cv2.CAP_V4L2)
        capture = cv2.VideoCapture(*target)
        if capture.isOpened():
            # Read the newest frame, not the oldest one in a queue; a driver without this setting ignores it.
            capture.set(self._cv2.CAP_PROP_BUFFERSIZE, 1)
        return capture


def _device(source: Source) -> str | None:
    """Return the video device that a source is or links to; None for any other source."""
    if isinstance(source, int):
        return None
    try:
        path = os.path.realpath(source)
    except (OSError, ValueError):  # ValueError: a NUL character in the path
        return None
    return path if _DEVICE.fullmatch(path) else None
