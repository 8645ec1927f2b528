"""Events as HTTP requests: POST of a JSON array of events to a URL."""

import base64
import contextlib
import http.client
import socket
import ssl
import threading
from collections.abc import Callable, Sequence
from functools import partial
from urllib.parse import unquote, urlsplit

from idol_runtime.delivery.queue import Delivery, RejectedError
from idol_runtime.errors import ConfigError, OutputError
from idol_runtime.json_text import to_json

__all__ = ["WebhookSender"]

# Longest time for a request and its answer.
_TIMEOUT_S = 10.0
# Statuses of a client error after which the same request may succeed later.
_TRY_AGAIN = (408, 425, 429)


class WebhookSender:
    """A receiver of events over HTTP; the path of its URL is treated as a secret."""

    def __init__(self, url: str) -> None:
        """Read a URL, such as `https://user:password@host/path`; nothing is connected yet.

        Raises:
            ConfigError: it is no URL of HTTP.
        """
        try:
            parts = urlsplit(url)
            self._host, self._port = parts.hostname or "", parts.port
            usable = url.isascii() and url.isprintable() and " " not in url and not parts.fragment
            self._host.encode("idna")
        except ValueError:
            usable = False
        if not usable or parts.scheme not in ("http", "https") or not self._host:
            raise ConfigError(
                "--webhook is no usable URL; give http://HOST/PATH or https://USER:PASSWORD@HOST/PATH, with %XX for "
                "special characters"
            )
        port = "" if self._port is None else f":{self._port}"
        self.name = f"{parts.scheme}://{f'[{self._host}]' if ':' in self._host else self._host}{port}"
        self._target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        self._headers = {
            "Content-Type": "application/json",
            "User-Agent": "idol-deploy",
            "Connection": "close",
        }
        if parts.username is not None:
            user = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
            self._headers["Authorization"] = f"Basic {base64.b64encode(user.encode()).decode()}"
        self._connect: Callable[..., http.client.HTTPConnection] = http.client.HTTPConnection
        if parts.scheme == "https":
            self._connect = partial(http.client.HTTPSConnection, context=ssl.create_default_context())

    def send(self, batch: Sequence[Delivery]) -> None:
        """Send events in one request.

        Raises:
            RejectedError: the answer is a redirect or a client error.
            OutputError: there is no answer in time, or a server error.
        """
        if not batch:
            return
        body = to_json([delivery.encode() for delivery in batch])
        try:
            status, reason = self._post(body)
        except http.client.HTTPException as error:
            raise OutputError(f"the answer is no HTTP: {type(error).__name__}; check the URL") from error
        except OSError as error:
            problem = error.strerror or error
            raise OutputError(f"cannot be reached: {problem}; check the network and the receiver") from error
        if 200 <= status < 300:
            return
        answer = f"answers {status} {reason}"
        if 300 <= status < 400:
            raise RejectedError(f"{answer}, a redirect; give the URL that it leads to")
        if 400 <= status < 500 and status not in _TRY_AGAIN:
            raise RejectedError(f"{answer}; check the URL and its password")
        raise OutputError(f"{answer}; check the receiver")

    def close(self) -> None:
        """Do nothing: every request has a connection of its own."""

    def _post(self, body: bytes) -> tuple[int, str]:
        """Return the status of the answer and its name."""
        with contextlib.closing(self._connect(self._host, self._port, timeout=_TIMEOUT_S)) as connection:
            connection.connect()
            late, sock = threading.Event(), connection.sock

            def cut() -> None:
                late.set()
                with contextlib.suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)

            # The timeout of a socket starts again with every byte.
            timer = threading.Timer(_TIMEOUT_S, cut)
            timer.daemon = True
            timer.start()
            try:
                connection.request("POST", self._target, body, self._headers)
                status = connection.getresponse().status
            except (OSError, http.client.HTTPException):
                if late.is_set():
                    raise TimeoutError(f"no answer in {_TIMEOUT_S:g} s") from None
                raise
            finally:
                timer.cancel()
        return status, http.client.responses.get(status, "")
