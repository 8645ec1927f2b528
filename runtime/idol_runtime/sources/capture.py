"""The part that video files, cameras and network streams share: frames read with OpenCV."""

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from idol_runtime.errors import SourceError
from idol_runtime.frames import RGBImage
from idol_runtime.optional import load_cv2
from idol_runtime.sources.base import Reader

__all__ = ["MAX_FPS", "CaptureReader"]

# A source that states a higher rate states its time base instead: 90000 for RTSP. Also the limit for written videos.
MAX_FPS = 1000.0


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


class CaptureReader(Reader):
    """A source that OpenCV's `VideoCapture` opens; frames are upright (rotation metadata applied).

    `fps` is None if the source states no rate or one above `MAX_FPS`. `frame_count` is the container's estimate.
    `time_s` is the container's timestamp, or the elapsed time for a live source.

    Attributes:
        open_error: message for a source that cannot be opened, with the placeholder `{name}`.
        hint: end of messages: what to check when frames are missing.
    """

    open_error: str
    hint: str

    def __init__(self, target: str | int, name: str) -> None:
        """Open a source and decode its first frame.

        Args:
            target: argument of `VideoCapture`.
            name: name of the source for messages, without passwords.

        Raises:
            MissingDependencyError: OpenCV is not installed.
            SourceError: the source cannot be opened or has no frame.
        """
        self.name = name
        self._target = target
        self._cv2 = load_cv2("reading video")
        self._next = 0
        self._capture = self._open()
        if not self._capture.isOpened():
            raise SourceError(self.open_error.format(name=name))
        self.fps = self._property(self._cv2.CAP_PROP_FPS)
        count = self._property(self._cv2.CAP_PROP_FRAME_COUNT)
        self.live = self._is_live(count)
        if self.fps is not None and self.fps > MAX_FPS:
            self.fps = count = None  # OpenCV computes the count from the rate
        self.frame_count = None if self.live or count is None else round(count)
        self._started = time.monotonic()
        self._first: RGBImage | None = self._decode()
        if self._first is None:
            self.close()
            raise SourceError(f"{name} has no frames; {self.hint}")
        self.size = self._first.shape[0], self._first.shape[1]

    def read(self) -> RGBImage | None:
        """Return the next frame, [H, W, 3] uint8 RGB; None at the end.

        Raises:
            SourceError: the file is damaged or cut short, or the camera or stream is lost.
        """
        image, self._first = self._first, None
        return self._decode() if image is None else image

    def skip(self) -> bool:
        """Skip the next frame; return False at the end.

        Raises:
            SourceError: as for `read`.
        """
        if self._first is not None:
            self._first = None
            return True
        return self._advance()

    def close(self) -> None:
        """Release the file, the camera or the connection."""
        self._capture.release()

    def _is_live(self, count: float | None) -> bool:
        """Return True if a source with this frame count has no end of its own."""
        return False

    def _reconnect(self) -> bool:
        """Grab the next frame after the source has stopped; return False if this is its end."""
        return False

    def _open(self) -> Any:
        with _quiet(self._cv2):
            return self._cv2.VideoCapture(self._target)

    def _grab(self) -> bool:
        with _quiet(self._cv2):
            return bool(self._capture.isOpened() and self._capture.grab())

    def _property(self, key: int) -> float | None:
        value = float(self._capture.get(key))
        return value if math.isfinite(value) and value > 0 else None

    def _decode(self) -> RGBImage | None:
        if not self._advance():
            return None
        with _quiet(self._cv2):
            decoded, image = self._capture.retrieve()
        if not decoded or image is None:
            raise SourceError(f"{self.describe(self._next - 1)} cannot be decoded; {self.hint}")
        return np.asarray(self._cv2.cvtColor(image, self._cv2.COLOR_BGR2RGB), dtype=np.uint8)

    def _advance(self) -> bool:
        if self._grab() or (self._next and self._reconnect()):
            self._next += 1
            self.time_s = self._clock()
            return True
        self._check_complete()
        return False

    def _clock(self) -> float:
        if self.live:
            return time.monotonic() - self._started
        stamp = float(self._capture.get(self._cv2.CAP_PROP_POS_MSEC)) / 1000
        if self._next == 1 or (math.isfinite(stamp) and stamp > self.time_s):
            return stamp if math.isfinite(stamp) and stamp > 0 else 0.0
        # Some containers have no timestamps.
        return self.time_s + (1 / self.fps if self.fps else 0.0)

    def _check_complete(self) -> None:
        """Raise an error if the file ended well before its stated length."""
        if self.frame_count is None or not self._next:
            return
        # A container's frame count is an estimate: a file that ends this close to it is complete.
        tolerance = max(2, 0.01 * self.frame_count)
        # With a variable frame rate the count is wrong but the time is right, so both must be short.
        time_short = not self.fps or (self.frame_count - tolerance) / self.fps > self.time_s + 1 / self.fps
        if self.frame_count - self._next > tolerance and time_short:
            raise SourceError(
                f"{self.name} ends at frame {self._next} of {self.frame_count}: the file is cut short or damaged; "
                f"copy it again, or read the good part with max_frames={self._next}"
            )
