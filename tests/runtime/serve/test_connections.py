"""Connections over real sockets: clients that neither send nor read, and too many of them; on a clock of the test."""

import asyncio
import select
import socket
import threading
from collections.abc import Callable, Iterable, Iterator
from types import SimpleNamespace

import msgspec
import numpy as np
import pytest

from idol_runtime.serve import connections, server
from idol_runtime.serve.messages import encode
from samples.waiting import until

GET = b"GET %s HTTP/1.1\r\nHost: localhost\r\n\r\n"


@pytest.fixture
def here(kit: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> Iterator[SimpleNamespace]:
    """Serve in this process; `wait` lets time pass for the connections, which the server then looks at."""
    now, ticks = [1000.0], threading.Semaphore(0)

    def tick(all_connections: Iterable[object]) -> None:
        connections.close_stalled(all_connections)
        ticks.release()

    def wait(seconds: float) -> None:
        now[0] += seconds
        while ticks.acquire(blocking=False):
            pass
        for _ in range(2):  # the first one may have begun before
            assert ticks.acquire(timeout=60)

    monkeypatch.setattr(connections, "time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr(server, "close_stalled", tick)
    monkeypatch.setattr(server, "_TICK_S", 0.01)
    run, theirs = socket.socketpair()
    run.settimeout(60)
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    thread = threading.Thread(target=lambda: asyncio.run(server.serve(theirs, listener)), daemon=True)
    thread.start()
    run.sendall(encode(kit.hello()))
    opened: list[socket.socket] = []

    def connect(data: bytes) -> socket.socket:
        client = socket.socket()
        opened.append(client)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2**13)
        client.settimeout(60)
        client.connect(("127.0.0.1", port))
        client.sendall(data)
        return client

    yield SimpleNamespace(connect=connect, wait=wait, send=lambda message: run.sendall(encode(message)))
    for client in opened:
        client.close()
    run.close()
    thread.join(60)
    assert not thread.is_alive()


def _is_closed(client: socket.socket) -> bool:
    try:
        return client.recv(2**16) == b""
    except ConnectionError:
        return True


@pytest.mark.parametrize(
    ("start", "trickle"),
    [
        (b"", b""),
        (b"GET / HTTP/1.1\r\nX: ", b"a"),
        (b"POST /api/streams HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
         b"Content-Length: 1000\r\n\r\n", b" "),
        (b"GET /nonsense HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n", b" "),
    ],
    ids=["nothing", "headers", "body", "body of a refused request"],
)  # fmt: skip
def test_a_request_that_never_ends_is_closed(here: SimpleNamespace, start: bytes, trickle: bytes) -> None:
    client = here.connect(start)
    client.settimeout(0.01)
    for _ in range(20):
        here.wait(2)
        try:
            client.sendall(trickle)
            if not client.recv(2**16):
                return
        except TimeoutError:
            pass
        except ConnectionError:
            return
    pytest.fail("the connection is open")


def test_many_requests_on_one_connection_are_served(here: SimpleNamespace) -> None:
    client = here.connect(b"")
    for _ in range(7):
        client.sendall(GET % b"/healthz")
        data = client.recv(2**16)
        assert data.startswith(b"HTTP/1.1 200")
        while b"}" not in data:
            data += client.recv(2**16)
        here.wait(2)


@pytest.fixture
def send_pictures(here: SimpleNamespace, kit: SimpleNamespace) -> Iterator[Callable[[], None]]:
    """Send pictures of noise, which take many bytes as JPEG, until the test ends."""
    message = kit.frame(picture=True, boxes_xyxy=[[0.0] * 4] * 2)
    noise = np.random.default_rng(0).integers(0, 255, 192 * 256 * 3, dtype=np.uint8)
    message = msgspec.structs.replace(
        message, picture=msgspec.structs.replace(message.picture, rgb=noise.data)
    )
    ended = threading.Event()

    def send() -> None:
        while not ended.wait(0.03):
            here.send(message)

    thread = threading.Thread(target=send, daemon=True)
    yield thread.start
    ended.set()
    thread.join()


def test_a_client_that_reads_nothing_is_dropped_and_a_slow_one_is_not(
    here: SimpleNamespace, send_pictures: Callable[[], None]
) -> None:
    silent = here.connect(GET % b"/api/streams/door/video?rate=30")
    slow = here.connect(GET % b"/api/streams/door/video?rate=30")
    send_pictures()
    dropped = select.poll()  # reads nothing: a read would be progress
    dropped.register(silent, 0)
    received = 0
    for _ in range(1000):
        if dropped.poll(0) and received > 2**18:
            break
        data = slow.recv(2**13)
        assert data
        received += len(data)
        here.wait(0.5)
    assert dropped.poll(0)
    assert received > 2**18


def test_connections_are_limited(here: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "MAX_CONNECTIONS", 2)
    first = here.connect(GET % b"/api/events")
    second = here.connect(GET % b"/api/events")
    assert first.recv(2**16).startswith(b"HTTP/1.1 200")
    assert second.recv(2**16).startswith(b"HTTP/1.1 200")
    third = here.connect(GET % b"/healthz")
    assert third.recv(2**16).startswith(b"HTTP/1.1 503")
    assert _is_closed(third)
    first.close()
    until(lambda: here.connect(GET % b"/healthz").recv(2**16).startswith(b"HTTP/1.1 200"))
