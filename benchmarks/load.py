"""Clients of a live server in a process of its own: watchers of the page's stream, and requests for results."""

import asyncio
import contextlib
import multiprocessing
import os
import statistics
import time
from multiprocessing.connection import Connection
from typing import TypedDict

__all__ = ["Answer", "Load"]


class Answer(TypedDict):
    """Figures of a load, as its clients see them.

    Attributes:
        requests_per_s: answered requests per second.
        request_ms: times of all answers.
        failed: number of requests without an answer of status 200.
        pictures_per_s: pictures per second of a watcher, the median of all.
    """

    requests_per_s: float
    request_ms: list[float]
    failed: int
    pictures_per_s: float


class Load:
    """A process that starts and stops its clients on request; a context manager.

    Args:
        core: processor core of the process.
        stream: name of the stream.
        watchers: clients of `/api/live`.
        rate: requests for results per second.
    """

    def __init__(self, core: int, stream: str, watchers: int, rate: float) -> None:
        context = multiprocessing.get_context("spawn")
        self._here, there = context.Pipe()
        arguments = (there, core, stream, watchers, rate)
        self._process = context.Process(target=_serve, args=arguments, daemon=True)
        self._process.start()
        there.close()

    def __enter__(self) -> "Load":
        return self

    def __exit__(self, *error: object) -> None:
        self._here.close()
        self._process.join()

    def start(self, port: int) -> None:
        """Start all clients of a server on loopback."""
        self._here.send(port)

    def stop(self) -> Answer:
        """Stop all clients and return what they saw."""
        self._here.send(None)
        answer: Answer = self._here.recv()
        return answer


def _serve(connection: Connection, core: int, stream: str, watchers: int, rate: float) -> None:
    os.sched_setaffinity(0, {core})
    with contextlib.suppress(EOFError):
        while True:
            clients = _Clients(connection.recv(), stream)
            connection.send(asyncio.run(clients.run(connection, watchers, rate)))


class _Clients:
    def __init__(self, port: int, stream: str) -> None:
        self._port, self._stream = port, stream
        self._ms: list[float] = []
        self._failed = 0

    async def run(self, connection: Connection, watchers: int, rate: float) -> Answer:
        started, pictures = time.monotonic(), [0] * watchers
        tasks = [asyncio.ensure_future(self._watch(pictures, i)) for i in range(watchers)]
        # Ten connections that are kept, so that one slow answer holds up few requests.
        tasks += [asyncio.ensure_future(self._request(rate / 10)) for _ in range(10)]
        while not connection.poll():
            await asyncio.sleep(0.02)
        connection.recv()
        seconds = time.monotonic() - started
        for task in tasks:
            task.cancel()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        self._failed += sum(not isinstance(outcome, asyncio.CancelledError) for outcome in outcomes)
        return {
            "requests_per_s": len(self._ms) / seconds,
            "request_ms": self._ms,
            "failed": self._failed,
            "pictures_per_s": statistics.median(pictures) / seconds,
        }

    async def _open(self, path: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        self._send(writer, path)
        return reader, writer

    def _send(self, writer: asyncio.StreamWriter, path: str) -> None:
        writer.write(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{self._port}\r\n\r\n".encode())

    async def _watch(self, pictures: list[int], number: int) -> None:
        """Count the pictures of the page's stream, whose records come in chunks."""
        reader, _ = await self._open(f"/api/live?stream={self._stream}")
        await _head(reader)
        rest = b""
        while size := int(await reader.readline(), 16):
            rest += (await reader.readexactly(size + 2))[:-2]
            while len(rest) >= 8:
                text, jpeg = int.from_bytes(rest[:4], "big"), int.from_bytes(rest[4:8], "big")
                if len(rest) < 8 + text + jpeg:
                    break
                pictures[number] += jpeg > 0
                rest = rest[8 + text + jpeg :]

    async def _request(self, rate: float) -> None:
        """Ask for the latest result at a steady rate; a late answer delays no later request."""
        path = f"/api/streams/{self._stream}/result"
        reader, writer = await self._open(path)
        due = time.monotonic()
        while True:
            length, status = await _head(reader)
            await reader.readexactly(length)
            self._ms.append(1e3 * (time.monotonic() - due))
            self._failed += status != 200
            due += 1 / rate
            await asyncio.sleep(due - time.monotonic())
            self._send(writer, path)


async def _head(reader: asyncio.StreamReader) -> tuple[int, int]:
    """Return the length and the status of an answer."""
    lines = (await reader.readuntil(b"\r\n\r\n")).decode().lower().splitlines()
    lengths = [int(line.partition(":")[2]) for line in lines if line.startswith("content-length:")]
    return (lengths or [0])[0], int(lines[0].split()[1])
