"""A stand-in for the server process of a run, which connects the run with a test.

It accepts one TCP connection at a time and passes everything on in both directions, so that the test itself reads and
writes the messages. A test that does not read makes it a server that does not read.
"""

import contextlib
import os
import socket
import sys
import threading

__all__ = ["main"]


def main(run: socket.socket, listener: socket.socket) -> None:
    """Pass messages on until the run closes the connection."""
    client = listener.accept()[0]
    threading.Thread(target=_pass, args=(client, run), daemon=True).start()
    _pass(run, client)
    os._exit(0)


def _pass(sender: socket.socket, receiver: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := sender.recv(2**16):
            receiver.sendall(data)


if __name__ == "__main__":
    main(*(socket.socket(fileno=int(number)) for number in sys.argv[1:]))
