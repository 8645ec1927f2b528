"""Network streams and video URLs as a frame source."""

import time
from urllib.parse import urlsplit

from idol_runtime.errors import SourceError
from idol_runtime.sources.base import Source
from idol_runtime.sources.capture import CaptureReader

__all__ = ["STREAM_SCHEMES", "StreamReader", "redact"]

STREAM_SCHEMES = ("rtsp", "rtsps", "rtmp", "rtmps", "http", "https", "udp", "srt")
# A lost stream is opened again after 1, 2, 4, 8 and 16 seconds, and is then given up.
_RECONNECT_ATTEMPTS = 5


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
        if url.partition("://")[0].lower() not in STREAM_SCHEMES:
            raise SourceError(
                f"cannot read {redact(url)}: unknown URL scheme; use one of {' '.join(STREAM_SCHEMES)}, "
                "or the path of a local file"
            )
        super().__init__(url, redact(url))

    @classmethod
    def accepts(cls, source: Source) -> bool:
        """Return True for text that contains `://`."""
        return isinstance(source, str) and "://" in source

    @classmethod
    def label(cls, source: Source) -> str:
        """Return host and path of the URL, without user and query, which may be secret."""
        try:
            parts = urlsplit(str(source))
        except ValueError:  # square brackets around something that is not an IPv6 address
            return redact(str(source))
        return f"{parts.netloc.rpartition('@')[2]}{parts.path}"

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
    """Return a URL without user, password and query, which may be secret.

    If an unescaped @ or ? makes the parts ambiguous, return only the scheme.
    """
    scheme, _, rest = url.partition("://")
    user, at, place = rest.rpartition("@")
    if "@" in user or "?" in user:
        return f"{scheme}://***"
    address, question, _ = place.partition("?")
    return f"{scheme}://{'***@' * bool(at)}{address}{'?***' * bool(question)}"
