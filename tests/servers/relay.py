"""A stand-in for the server process of a run, which connects the run with a test.

It accepts one TCP connection at a time and passes everything on in both directions, so that the test itself reads and
writes the messages. A test that does not read makes it a server that does not read.
"""

import contextlib
import os
import socket
import threading

__all__ = ["main"]


def main(arguments: list[str]) -> None:
    """Pass messages on until the run closes the connection.

    Args:
        arguments: descriptors of the run's socket and of the TCP socket.
    """
    run, listener = (socket.socket(fileno=int(number)) for number in arguments)
    client = listener.accept()[0]
    threading.Thread(target=_pass, args=(client, run), daemon=True).start()
    _pass(run, client)
    os._exit(0)


def _pass(sender: socket.socket, receiver: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := sender.recv(2**16):
            receiver.sendall(data)
