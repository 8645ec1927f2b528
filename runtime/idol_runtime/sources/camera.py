"""Local cameras as a frame source."""

import math
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from idol_runtime.errors import SourceError
from idol_runtime.frames import RGBImage
from idol_runtime.optional import load_cv2
from idol_runtime.sources.base import MAX_FPS, DecodingReader, Source

__all__ = ["CameraReader"]

# Nine digits fit OpenCV's int; a longer number is a file name.
_INDEX = re.compile(r"-?[0-9]{1,9}")
_LAST_CAMERA = 10**9 - 1
_DEVICE = re.compile(r"/dev/video[0-9]+")


class CameraReader(DecodingReader):
    """A camera of this machine, given by its index or, on Linux, by its device; read with OpenCV.

    `fps` is None if the camera states no rate or one above `MAX_FPS`. `time_s` is the time since the first frame.
    """

    live = True

    def __init__(self, source: Source) -> None:
        """Open a camera and decode its first frame.

        Args:
            source: camera index, as a number or as text, or a path such as `/dev/video0` or a link to one.

        Raises:
            MissingDependencyError: OpenCV is not installed.
            SourceError: the camera cannot be opened or sends no frame.
        """
        self.name = self.title(source)
        self._cv2 = cv2 = load_cv2("reading a camera")
        self._next, self._started = 0, 0.0
        self._buffer: NDArray[np.uint8] | None = None
        device = _device(source)
        with _quiet(cv2):
            if device is None:
                self._capture = cv2.VideoCapture(int(str(source)), cv2.CAP_ANY)
            else:
                self._capture = cv2.VideoCapture(device, cv2.CAP_V4L2)
            if not self._capture.isOpened():
                raise SourceError(
                    f"cannot open {self.name}; check that it is plugged in (on Linux: ls /dev/video*) and not in use"
                )
            # Read the newest frame, not the oldest one in a queue; a driver without this setting ignores it.
            self._capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)
        rate = float(self._capture.get(cv2.CAP_PROP_FPS))
        self.fps = rate if math.isfinite(rate) and 0 < rate <= MAX_FPS else None
        self._first = self._decode()
        if self._first is None:
            self.close()
            raise SourceError(f"{self.name} has no frames; check that the camera is sending")
        self.size = self._first.shape[0], self._first.shape[1]

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

    def close(self) -> None:
        """Release the camera."""
        self._capture.release()

    def _decode(self) -> RGBImage | None:
        if not self._advance():
            return None
        image = self._retrieve(0x55)
        # OpenCV may report success without writing the picture: then two different fillings come back.
        if image is not None and (image == 0x55).all():
            again = self._retrieve(0xAA)
            image = None if again is not None and (again == 0xAA).all() else again
        if image is None:
            raise SourceError(
                f"{self.describe(self._next - 1)} cannot be decoded; check that the camera is sending"
            )
        return np.asarray(self._cv2.cvtColor(image, self._cv2.COLOR_BGR2RGB), dtype=np.uint8)

    def _retrieve(self, filling: int) -> NDArray[np.uint8] | None:
        """Return the grabbed frame [H, W, 3] in BGR, written over an array of one value; None after a failure."""
        if self._buffer is not None:
            self._buffer.fill(filling)
        with _quiet(self._cv2):
            decoded, self._buffer = self._capture.retrieve(self._buffer)
        return self._buffer if decoded else None

    def _advance(self) -> bool:
        with _quiet(self._cv2):
            grabbed = bool(self._capture.isOpened() and self._capture.grab())
        if not grabbed:
            if self._next:
                raise SourceError(
                    f"{self.name} stopped sending at frame {self._next}; check its cable, and that no other program "
                    "uses it"
                )
            return False
        now = time.monotonic()
        self._started = self._started or now
        self._next += 1
        self.time_s = now - self._started
        return True


@contextmanager
def _quiet(cv2: Any) -> Iterator[None]:
    """Silence OpenCV's log: each failure is reported once, by the exception that is raised."""
    control = cv2 if hasattr(cv2, "setLogLevel") else cv2.utils.logging
    level = control.getLogLevel()
    control.setLogLevel(0)
    try:
        yield
    finally:
        control.setLogLevel(level)


def _device(source: Source) -> str | None:
    """Return the video device that a source is or links to; None for any other source."""
    if isinstance(source, int):
        return None
    try:
        path = os.path.realpath(source)
    except (OSError, ValueError):  # ValueError: a NUL character in the path
        return None
    return path if _DEVICE.fullmatch(path) else None
