"""Network streams and video URLs as a frame source."""

import contextlib
import errno
import os
import re
import time
from typing import Any

from idol_runtime.errors import SourceError
from idol_runtime.sources.base import Source
from idol_runtime.sources.container import SILENCE_S, ContainerReader

__all__ = ["STREAM_SCHEMES", "StreamReader", "redact"]

STREAM_SCHEMES = ("rtsp", "rtsps", "rtmp", "rtmps", "http", "https", "udp", "srt")
# Protocols that report the end of a stream; with others, the end cannot be told from a lost connection.
_STATE_END = ("http", "https", "rtmp", "rtmps")
# A lost stream is opened again after 1, 2, 4, 8 and 16 seconds, and is then given up.
_RECONNECT_ATTEMPTS = 5
_MISTYPED = re.compile(rf"({'|'.join(STREAM_SCHEMES)}):/", re.IGNORECASE)
_SECRET = re.compile(
    r"\b(user(name)?|login|pass(word|wd)?|pwd|token|key|secret|auth)=.*", re.IGNORECASE | re.DOTALL
)


class StreamReader(ContainerReader):
    """A network stream.

    A URL with a stated length is read like a file. A URL without one is live: a lost connection is opened again, up to
    five times with growing delays. The end of a stream over HTTP or RTMP is an end.
    """

    open_error = "cannot open {name}: {reason}; check the address, the credentials and the network"
    hint = "check that the sender is sending"

    def __init__(self, source: Source) -> None:
        """Open a URL.

        Args:
            source: URL with one of the schemes in `STREAM_SCHEMES`.

        Raises:
            MissingDependencyError: PyAV is not installed.
            SourceError: the scheme is unknown, or the stream cannot be opened or has no frame.
        """
        self._url = str(source)
        if "://" not in self._url:
            raise SourceError(
                f"cannot read {redact(self._url)}: two slashes follow the colon of a URL; write ://"
            )
        self._scheme = self._url.partition("://")[0].lower()
        if self._scheme not in STREAM_SCHEMES:
            raise SourceError(
                f"cannot read {redact(self._url)}: unknown URL scheme; use one of {' '.join(STREAM_SCHEMES)}, "
                "or the path of a local file"
            )
        self._url = self._scheme + self._url[len(self._scheme) :]  # FFmpeg knows lower case only
        self._closed = False
        super().__init__(redact(self._url))

    @classmethod
    def accepts(cls, source: Source) -> bool:
        """Return True for text with `://`, or a scheme of `STREAM_SCHEMES` and one slash, that is no existing path."""
        if not isinstance(source, str) or os.path.lexists(source):
            return False
        return "://" in source or bool(_MISTYPED.match(source))

    @classmethod
    def label(cls, source: Source) -> str:
        """Return host and path of the URL, without what may be secret."""
        address = redact(str(source)).partition(":")[2].rpartition("@")[2]
        return address.partition("?")[0].replace("***", "").strip("/")

    def _open(self) -> Any:
        # An unused option is ignored.
        return self._av.open(
            self._url, options={"rtsp_flags": "prefer_tcp"}, timeout=SILENCE_S, metadata_errors="replace"
        )

    def _is_live(self, duration_s: float | None) -> bool:
        self._lossy = duration_s is None
        return self._lossy

    def _time_of(self, picture: Any) -> float:
        if not self._next:
            self._started = time.monotonic()
        elif self._has_no_times():
            return time.monotonic() - self._started
        return super()._time_of(picture)

    def _has_no_times(self) -> bool:
        """Return True for the pictures of an HTTP camera, which come without timestamps and without end."""
        return bool(self._container.format.name == "mpjpeg")

    def _states_end(self) -> bool:
        return self._scheme in _STATE_END and not self._has_no_times()

    def _is_end(self, error: Exception) -> bool:
        # Over HTTP, the end of the connection is the end of a file whose length is not stated; FFmpeg reports an error.
        over_http = self._scheme.startswith("http") and self._states_end()
        self._closed = over_http and getattr(error, "errno", None) == errno.EIO and self._container.size < 0
        return self._closed

    def _reconnect(self) -> Any:
        closed, head = self._closed, self._head
        if not self.live or (self._states_end() and self._fault is None and not closed):
            return None
        picture = self._open_again(1 if closed else _RECONNECT_ATTEMPTS)
        repeats = self._states_end() and self._head == head
        if closed and (picture is None or repeats):
            self.notes.append(
                f"{self.name} closed the connection after {self._next} frames; it states no length, so this may be its "
                "end or a lost connection"
            )
            return None
        if picture is None:
            raise SourceError(
                f"{self.name} was lost at frame {self._next} and did not return in {_RECONNECT_ATTEMPTS} attempts; "
                "check the network and the sender"
            )
        if repeats:
            raise SourceError(
                f"{self.name} was lost at frame {self._next}, and the server sends it from its beginning; download the "
                "file and read the copy"
            )
        # Time passes while the stream is lost, and its timestamps may start again.
        self._first_pts, self.time_s = None, max(self.time_s, time.monotonic() - self._started)
        return picture

    def _open_again(self, attempts: int) -> Any:
        """Return the next picture of a new connection; None after the given number of attempts."""
        self._closed = False
        for attempt in range(attempts):
            time.sleep(2**attempt)
            self.close()
            with contextlib.suppress(SourceError):
                self._connect()
                picture = next(self._pictures, None)
                if picture is not None:
                    return picture
        return None


def redact(url: str) -> str:
    """Return a URL without what may be secret.

    Leaves out user, password and query; a path from a word such as `password=` on, as some cameras have it; and the
    stream key at the end of an RTMP path. If an unescaped @ or ? makes the parts ambiguous, returns only the scheme.
    """
    scheme, slashes, rest = re.match(r"([^:]*)(:/*)(.*)", url, re.DOTALL).groups()  # type: ignore[union-attr]
    user, at, place = rest.rpartition("@")
    if "@" in user or "?" in user:
        return f"{scheme}{slashes}***"
    address, question, _ = place.partition("?")
    address = _SECRET.sub("***", address)
    if scheme.lower() in ("rtmp", "rtmps"):
        address = re.sub(r"^([^/]*/+[^/]+/+).+", r"\1***", address)
    return f"{scheme}{slashes}{'***@' * bool(at)}{address}{'?***' * bool(question)}"
