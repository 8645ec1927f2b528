"""Fixtures: messages of a run, requests to the application, and the real server process."""

import asyncio
import http.client
import importlib.util
import json
import select
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pytest

from idol_runtime.serve.messages import (
    FrameMessage,
    FromRun,
    FromServer,
    Hello,
    Picture,
    StreamInfo,
    decode_from_server,
    encode,
)

# Those of the extra [serve], which an environment of the oldest packages lacks.
_SERVED = ("app", "connections", "hub", "metrics", "security", "server", "stream_view", "streaming")
collect_ignore = [] if importlib.util.find_spec("starlette") else [f"test_{name}.py" for name in _SERVED]

TOKEN = "a-long-secret-token"


def make_hello(**changes: Any) -> Hello:
    hello = Hello(
        version="0.1.0",
        pid=1,
        started=1e9,
        backend="openvino (cpu)",
        graph="fp32",
        device="cpu",
        bundle="edge.idol",
        class_names=["cat", "dog"],
        page=True,
        editable=True,
        token="",
        hosts=["cameras.example"],
        streams=[
            StreamInfo("door", "rtsp://door/live", True, "connected", 1e9),
            StreamInfo("a/b ü", "clip.mp4", False, "added", 1e9),
        ],
        events=[],
    )
    return msgspec.structs.replace(hello, **changes)


def make_frame(
    stream: str = "door", index: int = 7, *, picture: bool = False, **changes: Any
) -> FrameMessage:
    """Make a frame with two instances; the picture is grey, with the first mask in the upper half."""
    masks = np.full((2, 48, 64), -5, np.float32)
    masks[0, :24] = 5
    image = np.full((192, 256, 3), 120, np.uint8)
    message = FrameMessage(
        stream=stream,
        index=index,
        time_s=index / 10,
        wall=time.time(),
        size=(384, 512),
        ids=[3, 12],
        labels=[1, 0],
        scores=[0.9, 0.4],
        boxes_xyxy=[[0.0, 0.0, 512.0, 192.0], [8.0, 8.0, 500.0, 370.0]],
        stages={"wait": 0.001, "prepare": 0.002, "network": 0.015, "track": 0.001, "write": 0.0005},
        age_s=0.0195,
        frames=index + 1,
        dropped=2,
        tracks=13,
        picture=Picture((192, 256), image.data, masks.data, (48, 64), (192, 256), (192, 256))
        if picture
        else None,
    )
    return msgspec.structs.replace(message, **changes)


def complete(coroutine: Coroutine[Any, Any, None]) -> None:
    """Run a coroutine in a thread: Playwright leaves a running event loop in this one."""
    with ThreadPoolExecutor(1) as executor:
        executor.submit(asyncio.run, coroutine).result()


@dataclass
class Answer:
    """A response: status, headers by lower-case name, and body."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def ask(
    app: Any,
    path: str,
    *,
    method: str = "GET",
    headers: dict[str, str] | None = None,
    body: bytes | list[bytes] = b"",
    client: str = "127.0.0.1",
    scheme: str = "http",
    most: int = 10**6,
) -> Answer:
    """Send a request to an ASGI application; an endless response is left after `most` bytes."""
    raw_path, _, query = path.partition("?")
    chunks = body if isinstance(body, list) else [body]
    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": method,
        "scheme": scheme,
        "path": raw_path,
        "raw_path": raw_path.encode(),
        "query_string": query.encode(),
        "root_path": "",
        "headers": [
            (name.encode(), value.encode("latin-1"))
            for name, value in {"host": "localhost:8080", **(headers or {})}.items()
        ],
        "client": (client, 4711),
        "server": ("127.0.0.1", 8080),
    }
    sent: list[dict[str, Any]] = []

    async def run() -> None:
        left = asyncio.Event()
        pending = [
            {"type": "http.request", "body": chunk, "more_body": i + 1 < len(chunks)}
            for i, chunk in enumerate(chunks)
        ]

        async def receive() -> dict[str, Any]:
            if pending:
                return pending.pop(0)
            await left.wait()
            return {"type": "http.disconnect"}

        async def send(message: dict[str, Any]) -> None:
            sent.append(message)
            if sum(len(part.get("body", b"")) for part in sent) >= most:
                left.set()

        await asyncio.wait_for(app(scope, receive, send), 60)

    complete(run())
    start = sent[0]
    names = {name.decode().lower(): value.decode() for name, value in start["headers"]}
    return Answer(start["status"], names, b"".join(part.get("body", b"") for part in sent[1:]))


class ServerProcess:
    """A real server process, and the run's side of its socket."""

    def __init__(self, hello: Hello, listener: socket.socket | None = None) -> None:
        self.run, theirs = socket.socketpair()
        self.listener = listener or socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        descriptors = [theirs.fileno(), self.listener.fileno()]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "idol_runtime.serve.server", *map(str, descriptors)], pass_fds=descriptors
        )
        theirs.close()
        self.send(hello)

    def send(self, *messages: FromRun) -> None:
        for message in messages:
            self.run.sendall(encode(message))

    def received(self) -> FromServer:
        assert select.select([self.run], [], [], 60)[0], "the server sent nothing"
        size = int.from_bytes(self.run.recv(4, socket.MSG_WAITALL), "big")
        return decode_from_server(self.run.recv(size, socket.MSG_WAITALL))

    @contextmanager
    def request(self, method: str, path: str, **options: Any) -> Iterator[http.client.HTTPResponse]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request(method, path, **options)
            yield connection.getresponse()
        finally:
            connection.close()

    def get(self, path: str) -> tuple[int, bytes]:
        with self.request("GET", path) as response:
            return response.status, response.read()

    def memory(self) -> int:
        """Return the resident memory in bytes."""
        with open(f"/proc/{self.process.pid}/statm") as file:
            return int(file.read().split()[1]) * 4096

    def close(self) -> None:
        self.run.close()
        self.listener.close()
        try:
            self.process.wait(60)
        finally:
            self.process.kill()
            self.process.wait()


@pytest.fixture
def kit() -> SimpleNamespace:
    return SimpleNamespace(hello=make_hello, frame=make_frame, ask=ask, complete=complete, token=TOKEN)


@pytest.fixture
def start_server() -> Iterator[Callable[..., ServerProcess]]:
    servers: list[ServerProcess] = []

    def start(*, listener: socket.socket | None = None, **changes: Any) -> ServerProcess:
        servers.append(ServerProcess(make_hello(**changes), listener))
        return servers[-1]

    yield start
    for server in servers:
        server.close()
