"""The server process: messages of a run in, HTTP out.

    python -m idol_runtime.serve.server SOCKET_FD LISTEN_FD

It ends within a second when the run closes its side of the socket, and ignores signals: they are for the run.
"""

import asyncio
import contextlib
import logging
import signal
import socket
import sys

import uvicorn

from idol_runtime.serve.app import build_app
from idol_runtime.serve.connections import Connection, close_stalled
from idol_runtime.serve.hub import Hub
from idol_runtime.serve.messages import FromRun, FromServer, Hello, decode_from_run, encode
from idol_runtime.serve.pictures import Pictures
from idol_runtime.signals import STOP_SIGNALS

__all__ = ["main", "serve"]

# Kernel memory of one connection that nobody reads.
_SEND_BUFFER = 2**16
_KEEP_ALIVE_S, _TICK_S = 5, 1.0
# Pauses of 10 ms in which the end of the run is sent to clients; a busy machine may leave no half of a second for it.
_END_PAUSES = 50
# Connections that are accepted at a time. Together with `MAX_CONNECTIONS` they are fewer than the descriptors of a
# process: without one, asyncio logs thousands of lines per second.
_BACKLOG = 128


async def serve(run: socket.socket, listener: socket.socket) -> None:
    """Serve until the run closes its side.

    Args:
        run: socket of the run.
        listener: TCP socket that listens.
    """
    reader, writer = await asyncio.open_unix_connection(sock=run, limit=2**20)

    def send(message: FromServer) -> None:
        writer.write(encode(message))

    hello = await _read(reader)
    if not isinstance(hello, Hello):
        return
    hub = Hub(hello, send)
    pictures = Pictures(hello.class_names, hub.show)
    hub.draw = pictures.offer
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER)
    config = uvicorn.Config(
        build_app(hub, pictures),
        http=Connection,
        ws="none",
        lifespan="off",
        interface="asgi3",
        log_config=None,
        access_log=False,
        server_header=False,
        forwarded_allow_ips="127.0.0.1,::1",
        timeout_keep_alive=_KEEP_ALIVE_S,
        backlog=_BACKLOG,
    )
    server = uvicorn.Server(config)
    server.capture_signals = contextlib.nullcontext  # type: ignore[assignment, method-assign]  # they are for the run
    tasks = [
        asyncio.ensure_future(server.serve([listener])),
        asyncio.ensure_future(_tick(hub, server)),
        asyncio.ensure_future(_receive(reader, hub, server)),
    ]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        # Responses are cut: uvicorn would wait for those that never end.
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        listener.close()
        for connection in list(server.server_state.connections):
            connection.transport.abort()
        writer.close()
        # `asyncio.run` cancels the requests that are left, which may wait for the run.


async def _receive(reader: asyncio.StreamReader, hub: Hub, server: uvicorn.Server) -> None:
    while (message := await _read(reader)) is not None:
        hub.receive(message)
    # Clients that read are told the end of the run.
    for _ in range(_END_PAUSES):
        if not hub.ended or not (hub.clients or _unsent(server)):
            break
        await asyncio.sleep(0.01)


def _unsent(server: uvicorn.Server) -> int:
    return sum(one.transport.get_write_buffer_size() for one in server.server_state.connections)


async def _tick(hub: Hub, server: uvicorn.Server) -> None:
    while True:
        hub.tick()
        close_stalled(server.server_state.connections)
        await asyncio.sleep(_TICK_S)


async def _read(reader: asyncio.StreamReader) -> FromRun | None:
    """Return the next message; None at the end of the run."""
    try:
        size = int.from_bytes(await reader.readexactly(4), "big")
        message: FromRun = decode_from_run(await reader.readexactly(size))
    except (asyncio.IncompleteReadError, ConnectionError):
        return None
    return message


def main(arguments: list[str]) -> int:
    """Serve on inherited descriptors and return the exit status.

    Args:
        arguments: descriptors of the run's socket and of the TCP socket.
    """
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    # Its messages are about single requests, which anybody may send.
    logging.getLogger("uvicorn").setLevel(logging.CRITICAL + 1)
    run, listener = (socket.socket(fileno=int(descriptor)) for descriptor in arguments)
    asyncio.run(serve(run, listener))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
