"""Connections of clients: their number, and the end of those that neither send a request nor read a response.

uvicorn limits the time of an idle connection, but neither the time of a request that arrives slowly, nor of a response
that nobody reads.
"""

import asyncio
import socket
import struct
import time
from collections.abc import Iterable
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from idol_runtime.serve.security import client_address, is_local

__all__ = ["MAX_CONNECTIONS", "STALLED_S", "Connection", "close_stalled"]

MAX_CONNECTIONS = 256
# Share of one address that is not this machine's.
_SHARE = 64
# Longest time of a request, and of a response without progress.
STALLED_S = 10.0
_FULL = (
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nRetry-After: 5\r\nConnection: close\r\n\r\n"
)


class Connection(H11Protocol):
    """A connection of one client.

    Attributes:
        sent: bytes of bodies given to the connection.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.app_state = {**self.app_state, "connection": self}
        self.sent = self._drained = 0
        self._request: object = None
        self._sending_s = self._reading_s = time.monotonic()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Accept the connection, unless there are too many."""
        super().connection_made(transport)
        host, port = self.client or ("", 0)
        self.client = (address := client_address(host)), port
        others = (other for other in self.connections if isinstance(other, Connection))
        same = sum(other.client is not None and other.client[0] == address for other in others)
        if len(self.connections) > MAX_CONNECTIONS or (same > _SHARE and not is_local(address)):
            transport.write(_FULL)
            transport.close()

    def stalled(self, now: float) -> bool:
        """Return whether the client has sent no whole request, or read nothing, for too long."""
        if self.cycle is not self._request or self.conn.their_state not in (h11.IDLE, h11.SEND_BODY):
            self._request, self._sending_s = self.cycle, now
        waiting = self.transport.get_write_buffer_size()
        if not waiting or self.sent - waiting > self._drained:
            self._drained, self._reading_s = self.sent - waiting, now
        return now - min(self._sending_s, self._reading_s) > STALLED_S


def close_stalled(connections: Iterable[object]) -> None:
    """Close the connections of clients that neither send nor read; called about once a second."""
    now = time.monotonic()
    for connection in list(connections):
        if isinstance(connection, Connection) and connection.stalled(now):
            # With a reset: the kernel would keep what nobody reads for minutes, and the client would learn nothing.
            own = connection.transport.get_extra_info("socket")
            own.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            connection.transport.abort()
