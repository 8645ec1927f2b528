"""Messages to the service manager: ready, alive, stopping (the protocol of systemd's `sd_notify`).

The thread of the network sends them, so that a network that hangs sends none, and systemd restarts the service after
`WatchdogSec=`. A camera that is lost does not hold that thread up: its run is alive.
"""

import logging
import os
import socket
import time
from collections.abc import MutableMapping

__all__ = ["ServiceManager"]

# Longest time between two messages; a shorter `WatchdogSec=` halves itself.
_INTERVAL_S = 10.0

_log = logging.getLogger(__name__)


class ServiceManager:
    """The service manager that has started this process; without one, nothing is sent.

    A message never waits and never fails: one that the manager does not take is lost.
    """

    def __init__(self, environment: MutableMapping[str, str] = os.environ) -> None:
        """Read the manager's variables and remove them, so that no child process sends messages.

        Args:
            environment: variables of the process.
        """
        address = environment.pop("NOTIFY_SOCKET", "")
        limit_us = environment.pop("WATCHDOG_USEC", "")
        ours = environment.pop("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        watched = ours and limit_us.isdecimal() and int(limit_us) > 0
        self._interval_s = min(_INTERVAL_S, int(limit_us) / 2e6) if watched else _INTERVAL_S
        self._alive = "WATCHDOG=1\n" if watched else ""
        self._address = address.replace("@", "\0", 1) if address.startswith("@") else address
        self._sent_s, self._frames = time.monotonic(), 0

    def status(self, text: str) -> None:
        """Send one line for `systemctl status`."""
        self._send(f"STATUS={text}")

    def ready(self) -> None:
        """Tell that the network is loaded and that the run starts."""
        self._sent_s = time.monotonic()
        self._send(f"READY=1\n{self._alive}STATUS=running")

    def alive(self, sources: int, frames: int) -> None:
        """Tell that the network's thread works; sends at most two messages per `WatchdogSec=`.

        Args:
            sources: number of sources.
            frames: number of frames that the network has processed so far.
        """
        now = time.monotonic()
        if now - self._sent_s >= self._interval_s:
            rate = (frames - self._frames) / (now - self._sent_s)
            self._sent_s, self._frames = now, frames
            self._send(f"{self._alive}STATUS={sources} source{'s' * (sources != 1)}, {rate:.1f} frames/s")

    def stopping(self) -> None:
        """Tell that the run ends and completes its outputs, for which the manager waits `TimeoutStopSec=`."""
        self._send("STOPPING=1\nSTATUS=completing the outputs")

    def _send(self, message: str) -> None:
        if self._address:
            try:
                with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as connection:
                    connection.setblocking(False)
                    connection.sendto(message.encode(), self._address)
            except OSError as error:
                _log.debug("the service manager took no message: %s", error)
