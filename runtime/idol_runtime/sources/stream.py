"""Network streams and video URLs as a frame source."""

import errno
import os
import re
import time
from typing import Any

from idol_runtime.errors import SourceError
from idol_runtime.optional import load_av
from idol_runtime.sources.base import Reader, Source
from idol_runtime.sources.container import ContainerReader
from idol_runtime.sources.live import ClosedError, LiveOptions

__all__ = ["STREAM_SCHEMES", "StreamReader", "redact"]

STREAM_SCHEMES = ("rtsp", "rtsps", "rtmp", "rtmps", "http", "https", "udp", "srt")
# Protocols that report the end of a stream; with others, the end cannot be told from a lost connection.
_STATE_END = ("http", "https", "rtmp", "rtmps")
# A live stream whose timestamps run ahead of the clock by more than this has another start of time.
_JUMP_S = 10.0
_MISTYPED = re.compile(rf"({'|'.join(STREAM_SCHEMES)}):/", re.IGNORECASE)
_SECRET = re.compile(
    r"[\w-]*(user(name)?|login|pass(word|wd|phrase)?|pwd|token|key|secret|auth)=.*", re.IGNORECASE | re.DOTALL
)


class StreamReader(ContainerReader):
    """A network stream.

    A URL with a stated length is read like a file. A URL without one is live, and a lost connection is an error. The
    end of a stream over HTTP or RTMP is an end.
    """

    live = True

    open_error = "cannot open {name}: {reason}; check the address, the credentials and the network"
    hint = "check that the sender is sending"

    def __init__(self, source: Source, live: LiveOptions | None = None) -> None:
        """Open a URL.

        Args:
            source: URL with one of the schemes in `STREAM_SCHEMES`.
            live: time limits of a supervised stream, for which a connection that is closed is always an error; None:
                those of `LiveOptions()`.

        Raises:
            MissingDependencyError: PyAV is not installed.
            SourceError: the stream cannot be opened or has no frame.
        """
        limits = live or LiveOptions()
        self._supervised = live is not None
        self._open_s, self._silence_s = limits.open_timeout_s, limits.read_timeout_s
        scheme, _, rest = str(source).partition("://")
        self._scheme = scheme.lower()
        self._url = f"{self._scheme}://{rest}"  # FFmpeg knows lower case only
        self._closed, self._arrived_s = False, 0.0
        super().__init__(self.title(source))
        self.head = self._head if self._states_end() else None

    @classmethod
    def open_live(cls, source: Source, live: LiveOptions) -> Reader:
        """Open a stream with the given time limits."""
        return cls(source, live)

    @classmethod
    def title(cls, source: Source) -> str:
        """Return the URL without what may be secret."""
        return redact(str(source))

    @classmethod
    def check(cls, source: Source) -> None:
        """Check the scheme of a URL.

        Raises:
            MissingDependencyError: PyAV is not installed.
            SourceError: the scheme is unknown.
        """
        load_av("reading video")
        scheme, slashes, _ = str(source).partition("://")
        if not slashes:
            raise SourceError(
                f"cannot read {cls.title(source)}: two slashes follow the colon of a URL; write ://"
            )
        if scheme.lower() not in STREAM_SCHEMES:
            raise SourceError(
                f"cannot read {cls.title(source)}: unknown URL scheme; use one of {' '.join(STREAM_SCHEMES)}, "
                "or the path of a local file"
            )

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
        # An unused option is ignored. PyAV applies the first limit twice: to the connection and to the streams in it.
        return self._av.open(
            self._url,
            options={"rtsp_flags": "prefer_tcp"},
            timeout=(self._open_s / 2, self._silence_s),
            metadata_errors="replace",
        )

    def _is_live(self, duration_s: float | None) -> bool:
        self._lossy = duration_s is None
        return self._lossy

    def _time_of(self, picture: Any) -> float:
        now = time.monotonic()
        if not self._next:
            self._started = now
        elif self._has_no_times():
            return now - self._started
        time_s = super()._time_of(picture)
        if self.live and self._next and time_s - self.time_s > now - self._arrived_s + _JUMP_S:
            self._first_pts = None
            time_s = super()._time_of(picture)
        self._arrived_s = now
        return time_s

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

    def _check_complete(self) -> None:
        if not self.live:
            super()._check_complete()
        elif self._closed:
            text = (
                f"{self.name} closed the connection after {self._next} frames; it states no length, so this may be its "
                "end or a lost connection"
            )
            if self._supervised:
                raise ClosedError(text)
            self.notes.append(text)
        elif isinstance(self._fault, SourceError):
            raise self._fault
        elif self._fault is not None or not self._states_end():
            raise SourceError(
                f"{self.name} was lost at frame {self._next}; check the network and the sender"
            ) from self._fault


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
