"""Frames read with OpenCV, the part of a camera that does not depend on how it is named."""

import math
import time
from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from idol_runtime.errors import SourceError
from idol_runtime.frames import RGBImage
from idol_runtime.optional import load_cv2
from idol_runtime.sources.base import MAX_FPS, DecodingReader

__all__ = ["CaptureReader"]


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


class CaptureReader(DecodingReader):
    """A live source that OpenCV's `VideoCapture` opens.

    `fps` is None if the source states no rate or one above `MAX_FPS`. `time_s` is the time since the first frame.

    Attributes:
        open_error: message for a source that cannot be opened, with the placeholder `{name}`.
        end_error: message for a source that stops, with the placeholders `{name}` and `{index}`.
        hint: end of messages: what to check when frames are missing.
    """

    open_error: str
    end_error: str
    hint: str
    live = True

    def __init__(self, name: str) -> None:
        """Open a source and decode its first frame.

        Args:
            name: name of the source for messages, without passwords.

        Raises:
            MissingDependencyError: OpenCV is not installed.
            SourceError: the source cannot be opened or has no frame.
        """
        self.name = name
        self._cv2 = load_cv2("reading a camera")
        self._next, self._started = 0, 0.0
        self._buffer: NDArray[np.uint8] | None = None
        with _quiet(self._cv2):
            self._capture = self._open()
        if not self._capture.isOpened():
            raise SourceError(self.open_error.format(name=name))
        rate = float(self._capture.get(self._cv2.CAP_PROP_FPS))
        self.fps = rate if math.isfinite(rate) and 0 < rate <= MAX_FPS else None
        self._first = self._decode()
        if self._first is None:
            self.close()
            raise SourceError(f"{name} has no frames; {self.hint}")
        self.size = self._first.shape[0], self._first.shape[1]

    def close(self) -> None:
        """Release the camera."""
        self._capture.release()

    @abstractmethod
    def _open(self) -> Any:
        """Return a `VideoCapture`."""

    def _decode(self) -> RGBImage | None:
        if not self._advance():
            return None
        image = self._retrieve(0x55)
        # OpenCV may report success without writing the picture: then two different fillings come back.
        if image is not None and (image == 0x55).all():
            again = self._retrieve(0xAA)
            image = None if again is not None and (again == 0xAA).all() else again
        if image is None:
            raise SourceError(f"{self.describe(self._next - 1)} cannot be decoded; {self.hint}")
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
                raise SourceError(self.end_error.format(name=self.name, index=self._next))
            return False
        now = time.monotonic()
        self._started = self._started or now
        self._next += 1
        self.time_s = now - self._started
        return True
