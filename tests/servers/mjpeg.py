"""An HTTP camera on loopback (Motion JPEG), whose size, rate and faults tests change while it sends."""

import functools
import io
import random
import socket
import threading
import time
from collections.abc import Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Literal

from PIL import Image, ImageDraw

__all__ = ["Fault", "MjpegServer"]

Fault = Literal["", "stall", "garbage", "freeze", "drop", "refuse"]


class MjpegServer:
    """An HTTP server at `url` that sends one JPEG picture after the other; every attribute acts on the next picture.

    Attributes:
        size: (height, width) of the pictures.
        fps: pictures per second.
        pictures: JPEG files that are sent in a loop instead of a moving square; empty for the square.
        fault: what the server does instead of sending pictures: `stall` sends half of one and then nothing, `garbage`
            sends random bytes, `freeze` sends the same picture again and again, `drop` closes the connection in the
            middle of a picture, and `refuse` also answers new connections with 503; empty for none.
        connections: number of connections that were answered with pictures.
        sent: number of pictures sent.
    """

    def __init__(
        self, size: tuple[int, int] = (120, 160), fps: float = 25.0, *, pictures: Sequence[bytes] = ()
    ) -> None:
        self.size, self.fps, self.pictures = size, fps, pictures
        self.fault: Fault = ""
        self.connections = self.sent = self._shown = 0
        # Nobody else gets the port between `stop` and `start`: it is bound, without listening.
        self._reserved = socket.socket()
        self._reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._reserved.bind(("127.0.0.1", 0))
        self._port: int = self._reserved.getsockname()[1]
        self.start()
        self.url = f"http://127.0.0.1:{self._port}/camera"

    def __enter__(self) -> "MjpegServer":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        self._reserved.close()

    def start(self) -> None:
        """Listen, on the same port as before."""
        camera = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_: object) -> None:
                """Stay silent."""

            def do_GET(self) -> None:
                camera._send(self)

        self._server = ThreadingHTTPServer(("127.0.0.1", self._port), Handler)
        self._server.daemon_threads = True
        self._server.handle_error = lambda *_: None  # clients close at any time
        self._open = threading.Event()
        self._open.set()
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Close all connections and stop listening."""
        self._open.clear()  # a connection looks at this event, not at that of the next start
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def _send(self, client: BaseHTTPRequestHandler) -> None:
        if self.fault == "refuse":
            client.send_error(503)
            return
        self.connections += 1
        client.send_response(200)
        client.send_header("Content-Type", "multipart/x-mixed-replace; boundary=next")
        client.end_headers()
        due, up = time.monotonic(), self._open
        while up.is_set() and self.fault not in ("drop", "refuse"):
            data = self._picture(self._shown)
            head = b"--next\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n" % len(data)
            if self.fault == "stall":
                client.wfile.write(head + data[: len(data) // 2])
                while up.is_set() and self.fault == "stall":
                    time.sleep(0.01)
                client.wfile.write(data[len(data) // 2 :] + b"\r\n")
            else:
                client.wfile.write(head + data + b"\r\n")
            self.sent += 1
            self._shown += self.fault != "freeze"
            due = max(due + 1 / self.fps, time.monotonic() - 1)
            while up.is_set() and (left := due - time.monotonic()) > 0:
                time.sleep(min(left, 0.05))
        if up.is_set():  # dropped
            client.wfile.write(head + data[: len(data) // 2])

    def _picture(self, number: int) -> bytes:
        if self.fault == "garbage":
            return random.Random(number).randbytes(3000)
        return (
            self.pictures[number % len(self.pictures)] if self.pictures else _square(self.size, number % 32)
        )


@functools.cache
def _square(size: tuple[int, int], step: int) -> bytes:
    """Return a JPEG file with a white square, which moves with `step` from 0 to 31."""
    height, width = size
    image = Image.new("RGB", (width, height), (40, 80, 120))
    left, side = step * (width - height // 4) // 32, height // 4
    ImageDraw.Draw(image).rectangle((left, side, left + side, 2 * side), fill="white")
    data = io.BytesIO()
    image.save(data, "JPEG", quality=90)
    return data.getvalue()
