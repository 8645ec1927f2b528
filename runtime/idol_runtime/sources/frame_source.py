"""Frames of an open source with a stride, a limit and a check of their size."""

import functools
import itertools
import logging
import threading
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

from idol_runtime.errors import FrameError, SourceError
from idol_runtime.frames import Frame
from idol_runtime.sources.base import Reader

__all__ = ["FrameSource"]

T = TypeVar("T")

_log = logging.getLogger(__name__)


class FrameSource:
    """An open source of frames: iterate once, then close.

    Attributes:
        name: name of the source for messages and progress bars, without passwords.
    """

    def __init__(self, reader: Reader, *, stride: int = 1, max_frames: int | None = None) -> None:
        self._reader = reader
        self._stride = stride
        self._max_frames = max_frames
        self._done = 0
        self._state = "open"
        self._reader_lock = threading.Lock()
        self.name = reader.name

    @property
    def fps(self) -> float | None:
        """Yielded frames per second of the source, after the stride; None if unknown."""
        return self._reader.fps / self._stride if self._reader.fps else None

    @property
    def frame_count(self) -> int | None:
        """Number of frames that will be yielded, after stride and `max_frames`; None if unknown.

        For a video it is the container's estimate.
        """
        count = self._reader.frame_count
        if count is None:
            return None
        count = -(-count // self._stride)
        return count if self._max_frames is None else min(count, self._max_frames)

    @property
    def size(self) -> tuple[int, int] | None:
        """(height, width) of every frame in pixels.

        A supervised live source may change it, and has none before its first frame.
        """
        return self._reader.size

    @property
    def live(self) -> bool:
        """True for a source without an end of its own (a camera or a network stream).

        The first frame of a supervised live source may show that it is a file.
        """
        return self._reader.live

    def __enter__(self) -> "FrameSource":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __iter__(self) -> Iterator[Frame]:
        """Yield the frames, once.

        Raises:
            FrameError: a frame has another size than the first, or more than 8 bits per channel.
            SourceError: a frame cannot be read, the camera or stream is lost, or this is a second iteration. All
                frames before it have been yielded.
        """
        if self._state != "open":
            raise SourceError(f"{self.name} is {self._state}; open it again to read it again")
        self._state = "already being read"
        return self._frames()

    def skip(self, frames: int) -> None:
        """Leave out the first frames, which an earlier run has processed; they count towards `max_frames`.

        The other frames have the numbers and times that they have without it. Call it before the iteration.
        """
        self._done = frames

    def close(self) -> None:
        """Release the file, the camera or the connection; may be called twice, and while another thread reads.

        This call does not wait for that thread, which may hang in a camera: the thread releases the reader itself
        when it has its frame.
        """
        self._state = "closed"
        self._reader.stop()
        self._release()

    def _frames(self) -> Iterator[Frame]:
        done, index = self._done, self._done * self._stride
        if done and self._max_frames is not None and done >= self._max_frames:
            return
        if not all(self._call(self._reader.skip, False) for _ in range(index)):
            return
        for number in itertools.count(done + 1):
            image = self._call(self._reader.read, None)
            if image is None:
                break
            arrived_s = time.monotonic()
            if image.shape[:2] != self.size:
                assert self.size is not None
                raise FrameError(
                    f"{self._reader.describe(index)} is {image.shape[0]}x{image.shape[1]} (height x width), but the "
                    f"frames before it are {self.size[0]}x{self.size[1]}; give frames of one size, or each part as "
                    "its own source"
                )
            yield Frame(index, self._reader.time_s, image, arrived_s, self._reader.epoch)
            if number == self._max_frames:
                return
            if not self._call(self._skip, False):
                break
            index += self._stride
        for note in self._reader.notes:
            _tell(note)

    def _skip(self) -> bool:
        """Skip the frames that the stride leaves out."""
        return all(self._reader.skip() for _ in range(self._stride - 1))

    def _call(self, method: Callable[[], T], if_closed: T) -> T:
        """Call a method that uses the reader; release the reader if the source was closed in the meantime."""
        try:
            with self._reader_lock:
                return if_closed if self._state == "closed" else method()
        finally:
            if self._state == "closed":
                self._release()

    def _release(self) -> None:
        if self._reader_lock.acquire(blocking=False):
            try:
                self._reader.close()
            finally:
                self._reader_lock.release()


@functools.lru_cache(maxsize=1000)
def _tell(note: str) -> None:
    """Log a note on a source, once for all readings of it; Python writes it to stderr unless the program handles it."""
    _log.warning("note: %s", note)
