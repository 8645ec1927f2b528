"""Network streams and video URLs as a frame source."""

import re
import time

from idol_runtime.errors import SourceError
from idol_runtime.sources.base import Source
from idol_runtime.sources.capture import CaptureReader

__all__ = ["STREAM_SCHEMES", "StreamReader", "redact"]

STREAM_SCHEMES = ("rtsp", "rtsps", "rtmp", "rtmps", "http", "https", "udp", "srt")
# A lost stream is opened again after 1, 2, 4, 8 and 16 seconds, and is then given up.
_RECONNECT_ATTEMPTS = 5
_MISTYPED = re.compile(rf"({'|'.join(STREAM_SCHEMES)}):/", re.IGNORECASE)
_SECRET = re.compile(
    r"\b(user(name)?|login|pass(word|wd)?|pwd|token|key|secret|auth)=.*", re.IGNORECASE | re.DOTALL
)


class StreamReader(CaptureReader):
    """A network stream.

    A URL with a stated length is read like a file. A URL without one is live: a lost connection is opened again, up
    to five times with growing delays.
    """

    open_error = "cannot open {name}; check the address, the credentials and the network"
    hint = "check that the sender is sending"

    def __init__(self, source: Source) -> None:
        """Open a URL.

        Args:
            source: URL with one of the schemes in `STREAM_SCHEMES`.

        Raises:
            MissingDependencyError: OpenCV is not installed.
            SourceError: the scheme is unknown, or the stream cannot be opened or has no frame.
        """
        url = str(source)
        if "://" not in url:
            raise SourceError(f"cannot read {redact(url)}: two slashes follow the colon of a URL; write ://")
        if url.partition("://")[0].lower() not in STREAM_SCHEMES:
            raise SourceError(
                f"cannot read {redact(url)}: unknown URL scheme; use one of {' '.join(STREAM_SCHEMES)}, "
                "or the path of a local file"
            )
        super().__init__(url, redact(url))

    @classmethod
    def accepts(cls, source: Source) -> bool:
        """Return True for text that contains `://`, or a scheme of `STREAM_SCHEMES` and one slash."""
        return isinstance(source, str) and ("://" in source or bool(_MISTYPED.match(source)))

    @classmethod
    def label(cls, source: Source) -> str:
        """Return host and path of the URL, without what may be secret."""
        address = redact(str(source)).partition(":")[2].rpartition("@")[2]
        return address.partition("?")[0].replace("***", "").strip("/")

    def _is_live(self, count: float | None) -> bool:
        return count is None

    def _reconnect(self) -> bool:
        if not self.live:
            return False
        for attempt in range(_RECONNECT_ATTEMPTS):
            time.sleep(2**attempt)
            self._capture.release()
            self._capture = self._open()
            if self._grab():
                return True
        raise SourceError(
            f"{self.name} was lost at frame {self._next} and did not return in {_RECONNECT_ATTEMPTS} attempts; "
            "check the network and the sender"
        )


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
