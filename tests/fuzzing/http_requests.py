"""Requests to the server of `idol-deploy serve`, through uvicorn's parser, the application and the streams file."""

import asyncio
import json
import os
from functools import cache
from pathlib import Path
from random import Random
from typing import Any
from urllib.parse import quote, unquote

import h11
import numpy as np

from fuzzing.mutate import mutate_bytes, mutate_json, mutate_setting
from idol_deploy.cli import build_parser
from idol_deploy.commands.source_options import add_source_options, source_options
from idol_deploy.stream_requests import StreamRequests
from idol_deploy.streams_file import StreamsFile
from idol_runtime.errors import DataError
from idol_runtime.events import Event
from idol_runtime.serve.app import build_app
from idol_runtime.serve.hub import Hub
from idol_runtime.serve.messages import (
    Edit,
    EventMessage,
    FrameMessage,
    FromServer,
    Hello,
    Picture,
    Reply,
    StreamInfo,
)
from idol_runtime.serve.pictures import Pictures
from idol_runtime.serve.security import Buckets
from idol_runtime.serve.stream_view import Shown

__all__ = ["answer", "make_body", "make_query"]

_TOKEN = "a-token-of-the-fuzzing"
_STREAM = "/api/streams/door"
_TARGETS = (
    *(
        "/healthz",
        "/readyz",
        "/metrics",
        "/",
        "/page/page.css",
        "/login",
        "/api/streams",
        "/api/events/schema.json",
    ),
    *(
        f"{_STREAM}/result",
        f"{_STREAM}/result?masks=1",
        f"{_STREAM}/results?rate=5",
        f"{_STREAM}/video?rate=30",
    ),
    *(
        f"{_STREAM}/picture.jpg",
        f"{_STREAM}/tracks",
        f"{_STREAM}/tracks/3.jpg",
        f"{_STREAM}/history?seconds=60",
    ),
    *("/api/events?recent=10", "/api/live?stream=door&stream=a%2Fb&rate=10", "/api/streams/a%2Fb/result"),
)
_HEADERS = (
    *("Host: cameras.example:8080", "Authorization: Basic x", "Last-Event-ID: 7", "Cookie: idol_session_80=a.9.b"),
    *("Origin: http://localhost", "Sec-Fetch-Site: same-origin", "X-Forwarded-For: 10.0.0.9", "Content-Length: 0"),
)  # fmt: skip
_BEARER = f"Authorization: Bearer {_TOKEN}"
_FIELDS = (
    {"name": "yard", "source": "rtsp://me:secret@yard/live", "stride": 2, "score": 0.3, "boxes": True},
    {
        "name": "clip",
        "source": "day/a.mp4",
        "jsonl": "clip.jsonl",
        "state": "sub/clip.state",
        "queue": "latest",
    },
    {"name": "usb", "source": 0, "save": "usb.mp4", "rotate": "1h", "retain": "10GB", "after_gap": 30},
)
_JSON = "application/json"


def make_query(rng: Random) -> bytes:
    """Return a request without a body whose target or headers are changed."""
    path, _, query = rng.choice(_TARGETS).partition("?")
    parts = query.split("&") if query else []
    if parts and rng.random() < 0.6:
        place = rng.randrange(len(parts))
        parts[place] = mutate_setting(rng, parts[place].encode()).decode("latin-1")
    target = "?".join(filter(None, (path, "&".join(parts)))).encode("latin-1")
    if rng.random() < 0.4:
        target = mutate_bytes(rng, target)
    if rng.random() < 0.7:
        target = quote(target, safe="/?&=%").encode()
    headers = [
        b"Host: localhost",
        _BEARER.encode(),
        *(rng.choice(_HEADERS).encode() for _ in range(rng.randrange(3))),
    ]
    if rng.random() < 0.4:
        place = rng.randrange(len(headers))
        headers[place] = mutate_bytes(rng, headers[place])
    method = rng.choice((b"GET", b"GET", b"GET", b"HEAD", b"DELETE", b"OPTIONS", b"PUT"))
    return b"\r\n".join((method + b" " + target + b" HTTP/1.1", *headers, b"", b""))


def make_body(rng: Random) -> bytes:
    """Return a request with a changed body."""
    if rng.random() < 0.2:
        target, kind = "/login", "application/x-www-form-urlencoded"
        body = mutate_setting(rng, f"token={_TOKEN}".encode())
    else:
        target, kind = "/api/streams", _JSON
        body = mutate_json(rng, json.dumps(rng.choice(_FIELDS)).encode())
    head = f"POST {target} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {kind}\r\n{_BEARER}\r\n"
    if rng.random() < 0.8:
        length = len(body) if rng.random() < 0.9 else rng.choice((0, len(body) + 9, 10**6, 10**30))
        request = f"{head}Content-Length: {length}\r\n\r\n".encode() + body
    else:
        cut = rng.randrange(len(body) + 1)
        chunks = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in (body[:cut], body[cut:]) if part)
        request = f"{head}Transfer-Encoding: chunked\r\n\r\n".encode() + chunks + b"0\r\n\r\n"
    return mutate_bytes(rng, request) if rng.random() < 0.1 else request


def answer(data: bytes, path: Path) -> None:
    """Answer a request, and check the answer.

    Raises:
        DataError: the request is refused.
    """
    scope, body = _parse(data)
    loop, apps = _apps(os.getpid(), path.parent)
    status, headers, content = loop.run_until_complete(_ask(apps[len(data) % 2], scope, body))
    assert status < 500 or status == 503, content
    assert headers[b"x-content-type-options"] == b"nosniff"
    if status >= 400:
        # A wrong token is answered with the login page, and a silent run with a status.
        page = headers[b"content-type"].startswith(b"text/html")
        assert page or scope["method"] == "HEAD" or json.loads(content).keys() & {"error", "status"}
        raise DataError(f"status {status}")


def _parse(data: bytes) -> tuple[dict[str, Any], bytes]:
    """Return the scope and the body of a request, as uvicorn does."""
    connection = h11.Connection(h11.SERVER)
    request, body = None, b""
    try:
        connection.receive_data(data)
        connection.receive_data(b"")
        while type(event := connection.next_event()) in (h11.Request, h11.Data):
            if isinstance(event, h11.Request):
                request = event
            elif isinstance(event, h11.Data):
                body += event.data
    except h11.RemoteProtocolError as error:
        raise DataError(f"no HTTP: {error}") from error
    if request is None:
        raise DataError("no HTTP: nothing")
    raw, _, query = request.target.partition(b"?")
    return {
        "type": "http",
        "method": request.method.decode("ascii"),
        "scheme": "http",
        "root_path": "",
        "path": unquote(raw.decode("ascii")),
        "raw_path": raw,
        "query_string": query,
        "headers": [(name.lower(), value) for name, value in request.headers],
        "client": ("127.0.0.1", 4711),
        "server": ("127.0.0.1", 80),
    }, body


async def _ask(app: Any, scope: dict[str, Any], body: bytes) -> tuple[int, dict[bytes, bytes], bytes]:
    messages = [{"type": "http.request", "body": body, "more_body": False}]
    sent: list[dict[str, Any]] = []
    answered = asyncio.Event()

    async def receive() -> dict[str, Any]:
        if messages:
            return messages.pop()
        await answered.wait()
        return {"type": "http.disconnect"}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)
        if message["type"] == "http.response.body":
            answered.set()

    await app(scope, receive, send)
    head, *parts = sent
    return head["status"], dict(head["headers"]), b"".join(part.get("body", b"") for part in parts)


@cache
def _apps(_process: int, folder: Path) -> tuple[asyncio.AbstractEventLoop, list[Any]]:
    """Return an event loop and two applications of this process, one of them with a token."""
    loop = asyncio.new_event_loop()
    return loop, [_app(loop, folder / f"http{number}", token) for number, token in enumerate(("", _TOKEN))]


class _List(StreamsFile):
    def _apply(self, *_: object) -> None:
        """Start no stream."""


def _app(loop: asyncio.AbstractEventLoop, folder: Path, token: str) -> Any:
    (folder / "media" / "day").mkdir(parents=True, exist_ok=True)
    (folder / "media" / "day" / "a.mp4").touch()
    (folder / "data").mkdir(exist_ok=True)
    file = folder / "streams.json"
    defaults = build_parser().parse_args(["serve", "model.idol", "--streams", str(file)])
    listed = _List(file, add_source_options, source_options, defaults)
    requests = StreamRequests([folder / "media"], folder / "data")

    def send(message: FromServer) -> None:
        if isinstance(message, Edit):
            file.write_text('{"streams": [{"name": "door", "source": "rtsp://door/live"}]}')
            reply = listed.edit(None, lambda event: None, requests, message)  # type: ignore[arg-type]
            assert isinstance(reply, Reply)
            loop.call_soon(hub.receive, reply)

    streams = [StreamInfo(name, "rtsp://door/live", True, "connected", 1e9) for name in ("door", "a/b")]
    events = [EventMessage(Event("lost", "door", "lost", time=1e9), number) for number in range(20)]
    hello = Hello(
        "0", os.getpid(), 1e9, "cpu", "fp32", "cpu", "a.idol", ["cat"], True, True, token, [], streams, events
    )
    hub = Hub(hello, send)
    frame = _frame()
    hub.receive(frame)
    # Not drawn: OpenCV hangs in a fork of a process that has used its threads. The picture is never too old.
    hub.show(Shown(frame, b"picture", dict.fromkeys(frame.ids, b"thumbnail"), float("inf")))
    app = build_app(hub, Pictures(["cat"], hub.show))
    app._requests = app._attempts = Buckets(1e9, 1e9)
    return app


def _frame() -> FrameMessage:
    masks, image = np.ones((1, 4, 4), np.float32), np.zeros((16, 16, 3), np.uint8)
    picture = Picture((16, 16), image.data, masks.data, (4, 4), (16, 16), (16, 16))
    boxes = [[0.0, 0.0, 8.0, 8.0]]
    return FrameMessage(
        "door", 1, 0.1, 1e9, (16, 16), [3], [0], [0.5], boxes, {"network": 0.01}, 0.1, 2, 0, 4, picture
    )
