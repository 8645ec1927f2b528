"""Video files, cameras and network streams as frames, read with OpenCV."""

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from idol_runtime.errors import SourceError
from idol_runtime.frames import RGBImage
from idol_runtime.optional import load_cv2

__all__ = [
    "COUNT_TOLERANCE",
    "MAX_FPS",
    "RECONNECT_ATTEMPTS",
    "RECONNECT_FIRST_DELAY_S",
    "CaptureReader",
    "redact",
]

# A lost stream is opened again after 1, 2, 4, 8 and 16 seconds, and given up then.
RECONNECT_ATTEMPTS = 5
RECONNECT_FIRST_DELAY_S = 1.0
# A container's frame count is an estimate: a reading that ends this close to it is whole.
COUNT_TOLERANCE = 0.01
COUNT_TOLERANCE_FRAMES = 2
# Above it a source states its time base: 90000, of RTSP. Nor does a video that is written have more.
MAX_FPS = 1000.0


def redact(url: str) -> str:
    """A URL without what may be secret: user, password and query.

    Where an unescaped @ or ? leaves it open which part is which, only the scheme is left.
    """
    scheme, _, rest = url.partition("://")
    user, at, place = rest.rpartition("@")
    if "@" in user or "?" in user:
        return f"{scheme}://***"
    address, question, _ = place.partition("?")
    return f"{scheme}://{'***@' * bool(at)}{address}{'?***' * bool(question)}"


@contextmanager
def _quiet(cv2: Any) -> Iterator[None]:
    """Keep OpenCV's own lines off the terminal: a failure is told once, by the error that is raised."""
    control = cv2 if hasattr(cv2, "setLogLevel") else cv2.utils.logging
    level = control.getLogLevel()
    control.setLogLevel(0)
    try:
        yield
    finally:
        control.setLogLevel(level)


class CaptureReader:
    """Reads what OpenCV's `VideoCapture` opens, upright (rotation metadata applied).

    A URL with a stated length is read like a file. A URL without one is live: when it is lost it is opened
    again, `RECONNECT_ATTEMPTS` times with growing delays.

    Attributes:
        name: the source for messages, without secrets.
        fps: frames per second, None where the source does not say, or says more than `MAX_FPS`.
        frame_count: the container's estimate, None where there is none.
        live: whether the source has no end of its own.
        size: (height, width) of the first frame in pixels.
        time_s: time of the frame read last, in seconds: the container's timestamps; live: the clock.

    Raises:
        MissingDependencyError: OpenCV is not installed.
        SourceError: the source cannot be opened, or has no frame.
    """

    def __init__(self, target: str | int, name: str) -> None:
        self.name = name
        self._target = target
        self._cv2 = load_cv2("reading video")
        self._next = 0
        self._capture = self._open()
        if not self._capture.isOpened():
            raise SourceError(self._why_closed())
        self.fps = self._property(self._cv2.CAP_PROP_FPS)
        count = self._property(self._cv2.CAP_PROP_FRAME_COUNT)
        self.live = isinstance(target, int) or ("://" in target and count is None)
        if self.fps is not None and self.fps > MAX_FPS:
            self.fps = count = None  # the count is estimated by the rate
        self.frame_count = None if self.live or count is None else round(count)
        self._started = time.monotonic()
        self.time_s = 0.0
        self._first: RGBImage | None = self._decode()
        if self._first is None:
            self.close()
            raise SourceError(f"{name} has no frames; {self._check_hint()}")
        self.size = self._first.shape[0], self._first.shape[1]

    def describe(self, index: int) -> str:
        """Which frame of which source."""
        return f"frame {index} of {self.name}"

    def read(self) -> RGBImage | None:
        """The next frame as [H, W, 3] uint8 RGB; None at the end.

        Raises:
            SourceError: a damaged or shortened file, a lost camera, or a lost stream that does not return.
        """
        image, self._first = self._first, None
        return self._decode() if image is None else image

    def skip(self) -> bool:
        """Pass over the next frame; False at the end.

        Raises:
            SourceError: as `read`.
        """
        if self._first is not None:
            self._first = None
            return True
        return self._advance()

    def close(self) -> None:
        """Let go of the file, the camera or the connection."""
        self._capture.release()

    def _open(self) -> Any:
        with _quiet(self._cv2):
            capture = self._cv2.VideoCapture(self._target)
            if isinstance(self._target, int) and capture.isOpened():
                # The newest frame, not the oldest of a queue; a driver without the setting ignores it.
                capture.set(self._cv2.CAP_PROP_BUFFERSIZE, 1)
            return capture

    def _property(self, key: int) -> float | None:
        value = float(self._capture.get(key))
        return value if math.isfinite(value) and value > 0 else None

    def _decode(self) -> RGBImage | None:
        if not self._advance():
            return None
        with _quiet(self._cv2):
            decoded, image = self._capture.retrieve()
        if not decoded or image is None:
            where = self.describe(self._next - 1)
            raise SourceError(f"{where} cannot be decoded; {self._check_hint()}")
        return np.asarray(self._cv2.cvtColor(image, self._cv2.COLOR_BGR2RGB), dtype=np.uint8)

    def _advance(self) -> bool:
        with _quiet(self._cv2):
            grabbed = bool(self._capture.grab())
        if not grabbed and self.live and self._next:
            self._recover()
            grabbed = True
        if grabbed:
            self._next += 1
            self.time_s = self._clock()
            return True
        self._check_whole()
        return False

    def _clock(self) -> float:
        if self.live:
            return time.monotonic() - self._started
        stamp = float(self._capture.get(self._cv2.CAP_PROP_POS_MSEC)) / 1000
        if self._next == 1 or (math.isfinite(stamp) and stamp > self.time_s):
            return stamp if math.isfinite(stamp) and stamp > 0 else 0.0
        # Some containers carry no timestamps.
        return self.time_s + (1 / self.fps if self.fps else 0.0)

    def _check_whole(self) -> None:
        """Raise if the file ended well before the length that it states."""
        if self.frame_count is None or not self._next:
            return
        tolerance = max(COUNT_TOLERANCE_FRAMES, COUNT_TOLERANCE * self.frame_count)
        # Under a variable frame rate the count is far off while the time is right, so both must be short.
        time_short = not self.fps or (self.frame_count - tolerance) / self.fps > self.time_s + 1 / self.fps
        if self.frame_count - self._next > tolerance and time_short:
            raise SourceError(
                f"{self.name} ends at frame {self._next} of {self.frame_count}: the file is cut short or "
                "damaged there; copy it again, or read its good part with "
                f"max_frames={self._next}"
            )

    def _recover(self) -> None:
        """Grab the next frame of a live source that has stopped, over a new connection."""
        if isinstance(self._target, int):
            raise SourceError(
                f"{self.name} stopped delivering at frame {self._next}; check its cable, "
                "and that no other program uses it"
            )
        for attempt in range(RECONNECT_ATTEMPTS):
            time.sleep(RECONNECT_FIRST_DELAY_S * 2**attempt)
            self._capture.release()
            self._capture = self._open()
            with _quiet(self._cv2):
                if self._capture.isOpened() and self._capture.grab():
                    return
        raise SourceError(
            f"{self.name} was lost at frame {self._next} and did not return in {RECONNECT_ATTEMPTS} "
            "attempts; check the network and the sender"
        )

    def _why_closed(self) -> str:
        if isinstance(self._target, int):
            return f"cannot open {self.name}; check that it is plugged in (on Linux: ls /dev/video*) and free"
        if "://" in self._target:
            return f"cannot open {self.name}; check the address, the credentials and the network"
        return f"{self.name} is not a video that OpenCV can read, or is cut short; {self._check_hint()}"

    def _check_hint(self) -> str:
        local_file = isinstance(self._target, str) and "://" not in self._target
        return "check that a video player plays it" if local_file else "check that the sender is sending"
