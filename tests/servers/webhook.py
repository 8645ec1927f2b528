"""An HTTP server on loopback that receives events, with the faults that tests choose."""

import json
import ssl
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

__all__ = ["Webhook", "drip"]


class Webhook:
    """A server at `url` that stores the events of every request.

    Args:
        certificate: file of a certificate, with its key beside it (`.key`), for TLS; None without TLS.

    Attributes:
        answer: status of the answers; or a function that answers a request.
        requests: events of every request, and the status of its answer.
        headers: headers of the last request.
    """

    def __init__(self, certificate: Path | None = None) -> None:
        webhook = self
        self.answer: int | Callable[[BaseHTTPRequestHandler], None] = 200
        self.requests: list[tuple[list[dict[str, Any]], int]] = []
        self.headers: dict[str, str] = {}

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_: object) -> None:
                """Stay silent."""

            def do_POST(self) -> None:
                webhook._receive(self)

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._server.handle_error = lambda *_: None  # clients close at any time
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate, certificate.with_suffix(".key"))
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        scheme = "http" if certificate is None else "https"
        self.url = f"{scheme}://127.0.0.1:{self._server.server_port}/hooks/s3cret"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()

    def __enter__(self) -> "Webhook":
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    @property
    def accepted(self) -> list[dict[str, Any]]:
        """Events of the requests that were answered with 200."""
        return [event for events, status in list(self.requests) if status == 200 for event in events]

    def _receive(self, client: BaseHTTPRequestHandler) -> None:
        events = json.loads(client.rfile.read(int(client.headers["Content-Length"])))
        self.headers = {**dict(client.headers), "path": client.path}
        answer = self.answer
        self.requests.append((events, answer if isinstance(answer, int) else 0))
        if not isinstance(answer, int):
            answer(client)
            return
        client.send_response(answer)
        if 300 <= answer < 400:
            client.send_header("Location", "file:///etc/passwd")
        client.end_headers()


def drip(client: BaseHTTPRequestHandler) -> None:
    """Answer with one byte after the other, without an end."""
    for byte in b"HTTP/1.1 200 OK\r\nX: " + 1000 * b"x":
        client.wfile.write(bytes([byte]))
        time.sleep(0.05)
