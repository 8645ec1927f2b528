"""Live sources that survive: a lost camera or stream is opened again, and a decoder that hangs is given up."""

import contextlib
import ctypes
import functools
import random
import threading
import time
from collections.abc import Callable
from concurrent.futures import CancelledError, Future, InvalidStateError
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any, TypeVar

import numpy as np

from idol_runtime.errors import ConfigError, IdolError, SourceError
from idol_runtime.events import Event, EventKind, Tell, log_event
from idol_runtime.frames import RGBImage
from idol_runtime.sources.base import NOMINAL_FPS, Reader, Source

__all__ = ["MAX_HANGING", "ClosedError", "LiveOptions", "LiveReader"]

# Longest wait between two attempts to open a source again; the first wait is a second, the next ones double.
_LONGEST_WAIT_S = 30.0
# Threads of one source that may hang in a decoder or a driver at the same time.
MAX_HANGING = 4
# FFmpeg's own time limits end first, so that a thread is given up only where they do not work.
_GRACE_S = 1.0
# Time in which a connection closes normally.
_CLOSE_S = 1.0

T = TypeVar("T")


def _now() -> float:
    """Return the time since the machine was started, in seconds, with the time in which it was suspended."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()


@dataclass(frozen=True)
class LiveOptions:
    """Rules for a camera or a network stream that stops.

    Attributes:
        reconnect: number of attempts to open a lost source again, also one that is dead at the start; None: without
            end; 0: none.
        open_timeout_s: longest time to open a source, in seconds; its first frame may take `read_timeout_s` more.
        read_timeout_s: longest time without a frame, in seconds; a higher value suits cameras of less than 1 fps.
        frozen_s: longest time in which a source may send the same picture, byte for byte, in seconds; 0: no limit.
    """

    reconnect: int | None = None
    open_timeout_s: float = 20.0
    read_timeout_s: float = 10.0
    frozen_s: float = 30.0

    def __post_init__(self) -> None:
        if self.reconnect is not None and self.reconnect < 0:
            raise ConfigError(
                f"--reconnect must be at least 0, got {self.reconnect}; None stands for no limit"
            )
        limits = {"open_timeout_s": self.open_timeout_s, "--read-timeout": self.read_timeout_s}
        for name, seconds in limits.items():
            if not 0 < seconds < threading.TIMEOUT_MAX:
                raise ConfigError(f"{name} must be greater than 0 s, got {seconds}")
        if not self.frozen_s >= 0:
            raise ConfigError(f"--frozen must be at least 0 s, got {self.frozen_s}; give 0 for no limit")


class ClosedError(SourceError):
    """A connection that was closed at what may be the end of the source."""


class LiveReader(Reader):
    """A live source that is opened again whenever it is lost.

    A thread opens the source, reads it and closes it; a call that takes too long is given up, and its thread ends when
    the call returns. The first `read` opens the source: `size` is None until it has sent a frame. A source that states
    its end or its length ends there; one with a length, a file on a server, is not opened again.

    A source is lost when it fails, when it sends no frame for `read_timeout_s`, and when it repeats a picture for
    `frozen_s`. No frame comes until it sends again, or sends another picture. `epoch` then has grown by one for each
    connection, and `time_s` by the time that has passed.
    """

    live = True

    def __init__(
        self,
        name: str,
        open_reader: Callable[[], Reader],
        options: LiveOptions,
        tell: Tell = log_event,
        *,
        clock: Callable[[], float] = _now,
        sleep: Callable[[float], object] | None = None,
        chance: Callable[[float, float], float] = random.uniform,
    ) -> None:
        """Prepare a source; nothing is opened yet.

        Args:
            name: name of the source for messages, without passwords.
            open_reader: function that opens the source and reads its first frame; called in a thread.
            options: rules for a source that stops.
            tell: function that receives the events of the source.
            clock: monotonic clock, in seconds, that also counts the time in which the machine is suspended.
            sleep: function that waits for a number of seconds; None: a wait that `stop` ends.
            chance: function that returns a random number between its arguments.
        """
        self.name, self.size = name, None
        self._open_reader, self._options, self._tell = open_reader, options, tell
        self._clock, self._chance = clock, chance
        self._stopped = threading.Event()
        self._sleep = sleep or self._stopped.wait
        self._connection: _Connection | None = None
        self._pending: Future[Any] | None = None
        self._hanging: list[threading.Thread] = []
        self._lost = self._frozen = False
        self._attempts = 0  # since the last frame
        self._doublings, self._wait_s = 0, 0.0
        self._opened_s: float | None = None  # first frame of the connection
        self._started_s: float | None = None  # first frame of the source
        self._passed_s = self._changed_s = self._offset_s = 0.0
        self._image: RGBImage | None = None  # last frame
        self._head: bytes | None = None
        self._closed: ClosedError | None = None

    @classmethod
    def accepts(cls, source: Source) -> bool:
        """Return False: `open_source` uses this reader for the kinds that are live."""
        return False

    def read(self) -> RGBImage | None:
        """Return the next frame; None at the end of the source and after `stop`.

        Raises:
            SourceError: no attempt is left, or a file on a server cannot be read further.
        """
        image = self._next(self._read)
        if image is not None:
            self._pass_on(image)
        return image

    def skip(self) -> bool:
        """Skip the next frame; return False at the end of the source and after `stop`.

        Raises:
            SourceError: as for `read`.
        """
        return bool(self._next(lambda: self._call(lambda reader: reader.skip())))

    def stop(self) -> None:
        """End a wait of `read` or `skip` in another thread."""
        self._stopped.set()
        if (pending := self._pending) is not None:
            pending.cancel()

    def close(self) -> None:
        """Close the connection; a thread that hangs closes it when its call returns."""
        connection, self._connection = self._connection, None
        if connection is not None and not connection.close():
            self._hanging.append(connection.thread)

    def _next(self, call: Callable[[], T]) -> T | None:
        """Return the result of a call, which is repeated while the source is lost; None after `stop`."""
        while not self._stopped.is_set():
            try:
                return call()
            except CancelledError:
                break
            except SourceError as error:
                self._fail(error)
                # It refers to the connection, whose decoder must end now and not at a later collection of garbage.
                error.__traceback__ = None
            self._sleep(self._wait_s)
        return None

    def _read(self) -> RGBImage | None:
        while (
            (image := self._call(lambda reader: reader.read())) is not None
            and self.live
            and self._repeats(image)
        ):
            pass
        return image

    def _call(self, method: Callable[[Reader], T]) -> T:
        connection = self._connection or self._connect()
        limit_s = self._options.read_timeout_s
        result = self._result(connection.call(method), limit_s, f"sent no frame for {limit_s:g} s")
        reader = connection.opened.result()
        self.time_s, self.notes = self._offset_s + reader.time_s, reader.notes
        return result

    def _connect(self) -> "_Connection":
        self._hanging = [thread for thread in self._hanging if thread.is_alive()]
        if len(self._hanging) >= MAX_HANGING:
            raise SourceError(
                f"{self.name} is not opened while {MAX_HANGING} earlier calls of its driver hang; switch the camera "
                "off and on, or start this program again"
            )
        self._connection = connection = _Connection(self.name, self._open_reader)
        limit_s = self._options.open_timeout_s + self._options.read_timeout_s
        reader = self._result(connection.opened, limit_s, f"did not open in {limit_s:g} s")
        self.fps, self.frame_count, self.live = reader.fps, reader.frame_count, reader.live
        now = self._opened_s = self._clock()
        if self._started_s is None:
            self._started_s, self._head = now, reader.head
            return connection
        if self._head is not None and self._head == reader.head:
            self._end_repeated()
        self.epoch += 1
        self._offset_s = max(now - self._started_s, self.time_s + 1 / (self.fps or NOMINAL_FPS))
        if not self._frozen:
            self._image = None
        return connection

    def _end_repeated(self) -> None:
        """End a source that the server sends from its beginning again: a file."""
        if self._closed is not None:
            self.notes = (str(self._closed),)
            self.stop()
            raise CancelledError
        self.live = False
        raise SourceError(
            f"{self.name} was lost, and the server sends it from its beginning; download the file and read the copy"
        )

    def _result(self, future: "Future[T]", limit_s: float, complaint: str) -> T:
        """Wait for a call in the thread of the connection; `stop` ends the wait with CancelledError."""
        self._pending = future
        if self._stopped.is_set():  # `stop` did not find this call
            future.cancel()
        try:
            return future.result(limit_s + _GRACE_S)
        except FutureTimeoutError:
            raise SourceError(f"{self.name} {complaint}; check the camera and its network") from None
        finally:
            self._pending = None

    def _fail(self, error: SourceError) -> None:
        """Close the connection and choose the wait before the next attempt.

        Raises:
            SourceError: no attempt is left, or the source is a file on a server.
        """
        self.close()
        if not self.live:
            raise error
        if self._opened_s is not None:
            self._attempts = 0
            # The waits go on growing for a source that returns only for a moment.
            if self._clock() - self._opened_s > self._wait_s:
                self._doublings = 0
            self._opened_s = None
            self._closed = error if isinstance(error, ClosedError) else None
        attempts = self._options.reconnect
        if self._attempts == attempts:
            raise SourceError(f"{error} (no frame in {attempts} attempts)") if attempts else error
        if not self._lost:
            self._lost = True
            complaint = str(error).removeprefix(f"{self.name} ")
            self._event("lost" if self.size else "waiting", f"{complaint}; it is opened again")
        self._wait_s = min(2.0**self._doublings, _LONGEST_WAIT_S) * self._chance(0.5, 1)
        self._attempts, self._doublings = self._attempts + 1, min(self._doublings + 1, 9)

    def _repeats(self, image: RGBImage) -> bool:
        """Return True for a picture that a frozen source repeats.

        Raises:
            SourceError: the source is frozen since now.
        """
        before, self._image = self._image, image
        if before is None or not _equal(before, image):
            self._changed_s, self._frozen = self._clock(), False
        elif not self._frozen and 0 < self._options.frozen_s < self._clock() - self._changed_s:
            self._frozen = True
            raise SourceError(
                f"{self.name} has sent the same picture for {self._options.frozen_s:g} s; check the camera"
            )
        return self._frozen

    def _pass_on(self, image: RGBImage) -> None:
        now, before, size = self._clock(), self.size, (image.shape[0], image.shape[1])
        if before is None or self.live:
            self.size = size
        if self.live:
            height, width = size
            if before is None:
                self._event("connected", f"sends frames of {height}x{width}", width=width, height=height)
            elif self._lost:
                gap_s = round(now - self._passed_s, 3)
                self._event("back", f"sends again after {gap_s:.1f} s", gap_s=gap_s)
            if before is not None and before != size:
                self._event(
                    "resized",
                    f"sends frames of {height}x{width} instead of {before[0]}x{before[1]}",
                    width=width,
                    height=height,
                )
        self._lost, self._passed_s = False, now

    def _event(self, kind: EventKind, message: str, **values: float) -> None:
        self._tell(Event(kind, self.name, message, values))


class _Connection:
    """A reader in a thread of its own, which runs one call after the other.

    Attributes:
        opened: reader, once it has its first frame.
        thread: thread of the reader.
    """

    def __init__(self, name: str, open_reader: Callable[[], Reader]) -> None:
        self._name = name
        self.opened: Future[Reader] = Future()
        self._calls: SimpleQueue[tuple[Future[Any], Callable[[Reader], Any]] | None] = SimpleQueue()
        self.thread = threading.Thread(target=self._serve, args=(open_reader,), name="idol-live", daemon=True)
        self.thread.start()

    def call(self, method: "Callable[[Reader], T]") -> "Future[T]":
        """Call a method of the reader in its thread."""
        future: Future[T] = Future()
        self._calls.put((future, method))
        return future

    def close(self) -> bool:
        """Close the reader; return False if its thread hangs, which then closes the reader when its call returns."""
        self._calls.put(None)
        with contextlib.suppress(Exception):  # it is not open
            self.opened.result(0).stop()
        self.thread.join(_CLOSE_S)
        return not self.thread.is_alive()

    def _serve(self, open_reader: Callable[[], Reader]) -> None:
        reader = self._settle(self.opened, open_reader)
        if reader is None:
            return
        for future, method in iter(self._calls.get, None):
            self._settle(future, functools.partial(method, reader))
        with contextlib.suppress(Exception):  # errors of a connection that is lost anyway
            reader.close()
        # glibc holds the memory of the decoder's threads: 0.05 MiB for each connection of an RTSP camera.
        with contextlib.suppress(AttributeError, OSError):  # another C library
            ctypes.CDLL(None).malloc_trim(0)

    def _settle(self, future: "Future[T]", function: Callable[[], T]) -> T | None:
        """Give a future the result or the exception of a function; return the result."""
        result = None
        with contextlib.suppress(InvalidStateError):  # the caller has given up this call
            try:
                result = function()
            except IdolError as error:
                future.set_exception(error)
            except Exception as error:  # noqa: BLE001 - decoders and drivers raise any exception type
                future.set_exception(SourceError(f"{self._name} cannot be read: {error!r}; check the camera"))
            else:
                future.set_result(result)
        return result


def _equal(before: RGBImage, image: RGBImage) -> bool:
    """Return True for equal pictures; a few rows show most differences."""
    return np.array_equal(before[::16], image[::16]) and np.array_equal(before, image)
