"""The server process: a thread of the run starts it, sends to it, and starts it again when it ends."""

import contextlib
import logging
import os
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable

import msgspec

from idol_runtime.serve.access import TOKEN_VARIABLE
from idol_runtime.serve.messages import FromRun, FromServer, decode_from_server, encode, receive

__all__ = ["Supervisor"]

_MODULE = "idol_runtime.serve.server"
# Imports no module from the current folder, and reports a broken package in one line.
_CHILD = """
import sys
sys.path[:] = filter(None, sys.path)
try:
    from {} import main
except Exception as error:
    sys.exit(f"the server process cannot be started: {{error!r}}; install idol-deploy[serve] again")
sys.exit(main(sys.argv[1:]))
"""

# Delay before a server is started again: at first, and at most. It doubles unless the server has run for _STABLE_S.
_FIRST_DELAY_S, _MAX_DELAY_S, _STABLE_S = 0.5, 30.0, 60.0
# A server that takes nothing for this time hangs, and is replaced.
_HANG_S = 20
# Time that an ending run leaves the server to take the last messages, and then to end.
_FLUSH_S, _END_S = 1.0, 2.0
# Lower priority of the server, so that the network has the processor.
_NICENESS = 5

_log = logging.getLogger(__name__)


class Supervisor:
    """A server process and its connection, from the creation to `close`.

    The server has no descriptors but the standard streams, the connection and the listening socket. It is in no process
    group of the run, so that Ctrl-C reaches the run alone, and ends with the connection: also if the run is killed.

    Attributes:
        pid: number of the process; 0 while none runs.
    """

    def __init__(
        self,
        listener: socket.socket,
        begin: Callable[[], FromRun],
        take: Callable[[], FromRun | None],
        receive: Callable[[FromServer], None],
    ) -> None:
        """Start the thread.

        Args:
            listener: listening socket.
            begin: function that returns the first message for a server that has just started.
            take: function that waits for the next message and returns it; None ends the connection.
            receive: function that is called with each message of the server, in a thread of its own.
        """
        self._listener, self._begin, self._take, self._receive = listener, begin, take, receive
        self._closing = threading.Event()
        self._connection: socket.socket | None = None
        self.pid = 0
        self._thread = threading.Thread(target=self._supervise, name="idol-serve", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the server; `take` must return None soon."""
        self._closing.set()
        self._thread.join(_FLUSH_S)
        if (connection := self._connection) is not None:  # it takes nothing
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self._thread.join(2 * _END_S)

    def _supervise(self) -> None:
        delay_s = _FIRST_DELAY_S
        while not self._closing.is_set():
            started = time.monotonic()
            try:
                outcome = self._serve()
            except Exception as error:  # noqa: BLE001 - the run goes on; a shortage of processes or memory may end
                outcome = repr(error)
            if self._closing.is_set():
                return
            if time.monotonic() - started > _STABLE_S:
                delay_s = _FIRST_DELAY_S
            _log.warning(
                "the server process ended (%s); the run goes on, and it is started again in %g s",
                outcome,
                delay_s,
            )
            self._closing.wait(delay_s)
            delay_s = min(2 * delay_s, _MAX_DELAY_S)

    def _serve(self) -> str:
        """Start a server, send to it until it ends or `take` has no more, and return its outcome."""
        ours, theirs = socket.socketpair()
        with ours:
            # A send that waits longer fails; the reader's `recv` is not limited.
            ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", _HANG_S, 0))
            with theirs:
                process = self._start(theirs)
            self._connection, self.pid = ours, process.pid
            reader = threading.Thread(target=self._read, args=(ours,), name="idol-serve-read", daemon=True)
            reader.start()
            outcome = ""
            try:
                ours.sendall(encode(self._begin()))
                while (message := self._take()) is not None:
                    ours.sendall(encode(message))
            except BlockingIOError:
                outcome = f"took no message for {_HANG_S} s"
                process.kill()
            except OSError:
                pass  # it has ended
            finally:
                self._connection, self.pid = None, 0
                with contextlib.suppress(OSError):
                    ours.shutdown(socket.SHUT_RDWR)
                status = _end(process)
                reader.join()
        return outcome or f"exit status {status}"

    def _start(self, theirs: socket.socket) -> "subprocess.Popen[bytes]":
        environment = {name: value for name, value in os.environ.items() if name != TOKEN_VARIABLE}
        descriptors = theirs.fileno(), self._listener.fileno()
        process = subprocess.Popen(  # noqa: S603 - our own module
            [sys.executable, "-c", _CHILD.format(_MODULE), *map(str, descriptors)],
            pass_fds=descriptors,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            env=environment,
            start_new_session=True,
        )
        with contextlib.suppress(OSError):  # it has ended
            niceness = os.getpriority(os.PRIO_PROCESS, 0)
            os.setpriority(os.PRIO_PROCESS, process.pid, min(19, niceness + _NICENESS))
        return process

    def _read(self, connection: socket.socket) -> None:
        try:
            with connection.makefile("rb") as stream:
                while (data := receive(stream)) is not None:
                    self._receive(decode_from_server(data))
        except OSError:
            pass  # the connection has ended
        except msgspec.DecodeError as error:
            _log.warning("the server process sent a wrong message: %s", error)
        with contextlib.suppress(OSError):  # lets the sender notice
            connection.shutdown(socket.SHUT_RDWR)


def _end(process: "subprocess.Popen[bytes]") -> int:
    """Wait for a process whose connection is closed, kill it if it goes on, and return its exit status."""
    try:
        return process.wait(_END_S)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()
