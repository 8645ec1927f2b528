"""An MQTT broker on loopback, Debian's mosquitto, which tests kill and start again; its log says what it received."""

import re
import socket
import subprocess
import time
from pathlib import Path

from servers.rtsp import free_port

__all__ = ["MOSQUITTO", "Broker"]

MOSQUITTO = "/usr/sbin/mosquitto"


class Broker:
    """A broker that listens on `port`, which stays the same over `kill` and `start`.

    Args:
        folder: folder of its files.
        password: password of the user `user`, without whom nobody connects; empty for a broker that is open.
        certificate: file of a certificate, with its key beside it (`.key`), for TLS; None without TLS.
    """

    def __init__(self, folder: Path, *, password: str = "", certificate: Path | None = None) -> None:
        self.port, self._folder = free_port(), folder
        config = [f"listener {self.port} 127.0.0.1", "log_type all", f"log_dest file {folder / 'log'}"]
        config.append("user root")
        if password:
            passwords = folder / "passwords"
            passwords.touch(mode=0o600)
            subprocess.run(["mosquitto_passwd", "-b", passwords, "user", password], check=True)
            config += ["allow_anonymous false", f"password_file {passwords}"]
        else:
            config.append("allow_anonymous true")
        if certificate is not None:
            config += [f"certfile {certificate}", f"keyfile {certificate.with_suffix('.key')}"]
        (folder / "mosquitto.conf").write_text("\n".join(config) + "\n")
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    def __enter__(self) -> "Broker":
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def start(self) -> None:
        """Start the broker and wait until it listens."""
        self._process = subprocess.Popen([MOSQUITTO, "-c", self._folder / "mosquitto.conf"])
        deadline = time.monotonic() + 60
        while True:
            assert self._process.poll() is None, self.log
            assert time.monotonic() < deadline, self.log
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
            except OSError:
                time.sleep(0.01)
            else:
                return

    def kill(self) -> None:
        """Kill the broker, if it runs."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    @property
    def log(self) -> str:
        """Log of all starts."""
        return (self._folder / "log").read_text()

    def topics(self) -> list[str]:
        """Return the topics of the messages received with a quality of service of 1, in their order."""
        return re.findall(r"Received PUBLISH from \S+ \(d\d, q1, r\d, m\d+, '([^']*)'", self.log)
