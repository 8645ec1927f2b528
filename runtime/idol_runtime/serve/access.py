"""Access to the live server: its address, its token and the names by which clients may call it."""

import ipaddress
import os
import re
import socket
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from idol_runtime.errors import ConfigError

__all__ = ["MIN_TOKEN", "TOKEN_VARIABLE", "Access", "parse_address", "read_token"]

TOKEN_VARIABLE = "IDOL_DEPLOY_TOKEN"  # noqa: S105 - a name
# Length of a token in characters.
MIN_TOKEN, _MAX_TOKEN = 16, 1024
_HOW = (
    "make one with: (umask 077; python3 -c 'import secrets; print(secrets.token_urlsafe(32))' > token.txt), and give "
    "--token-file token.txt"
)


@dataclass(frozen=True)
class Access:
    """An address, and the conditions under which clients use it.

    Attributes:
        host: name or address to listen at; `0.0.0.0` or `::` for all addresses of the machine.
        port: TCP port; 0 for any free one.
        token: token that clients must know; empty for none, which only a loopback address allows.
        names: further names by which clients may call the server.

    Raises:
        ConfigError: a further name is none.
    """

    host: str = "127.0.0.1"
    port: int = 8080
    token: str = ""
    names: Sequence[str] = ()

    def __post_init__(self) -> None:
        for name in self.names:
            if not re.fullmatch(r"[A-Za-z0-9._-]+", name):
                raise ConfigError(
                    f"--allow-host is no host name: {name!r}; give one without scheme and port: cameras.example"
                )

    def listen(self) -> socket.socket:
        """Return a socket that listens at the address.

        Raises:
            ConfigError: the host is unknown, the port is taken, or a token is missing.
        """
        family, address = self._resolve()
        if not self.token and not ipaddress.ip_address(address[0]).is_loopback:
            raise ConfigError(
                f"{self.host} can be reached from other machines, and there is no token; {_HOW}, or listen at 127.0.0.1"
            )
        ipv6 = family == socket.AF_INET6  # `::` takes IPv4 as well
        try:
            return socket.create_server(
                address, family=family, backlog=128, dualstack_ipv6=ipv6 and socket.has_dualstack_ipv6()
            )
        except OSError as error:
            raise ConfigError(
                f"cannot listen at {_joined(self.host, self.port)}: {os.strerror(error.errno or 0)}; give --http or "
                "--metrics a free port and an address of this machine"
            ) from error

    @property
    def hosts(self) -> list[str]:
        """Names that a client may write in its Host header, in lower case."""
        machine = socket.gethostname().lower()
        names = ["localhost", "127.0.0.1", "::1", self.host, machine, f"{machine}.local", *self.names]
        return list(dict.fromkeys(name.lower() for name in names))

    def url(self, listener: socket.socket) -> str:
        """Return the URL of the server for a person at this machine or, for all addresses, elsewhere."""
        everywhere = self.host in ("0.0.0.0", "::")  # noqa: S104 - compared
        host = socket.gethostname() if everywhere else self.host
        return f"http://{_joined(host, listener.getsockname()[1])}/"

    def _resolve(self) -> tuple[socket.AddressFamily, tuple[str, int]]:
        """Return the family and the socket address of the host; IPv4 if it has both."""
        try:
            found = socket.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            reason = getattr(error, "strerror", None) or error
            raise ConfigError(
                f"unknown host: {self.host}: {reason}; give an address of this machine"
            ) from error
        family, _, _, _, address = min(found, key=lambda entry: entry[0] != socket.AF_INET)
        return family, address  # type: ignore[return-value]  # IPv6 has two more numbers


def parse_address(text: str) -> tuple[str, int]:
    """Return the host and the port of `[HOST:]PORT`; the host is 127.0.0.1 if it is left out.

    Raises:
        ConfigError: the text has another form.
    """
    match = re.fullmatch(r"(?:(\[[0-9A-Fa-f:.]+(?:%[\w.-]+)?\]|[\w.-]+):)?(\d{1,5})", text, re.ASCII)
    if match is None or int(match[2]) > 65535:
        raise ConfigError(f"not an address: {text!r}; give a port or HOST:PORT, such as 8080 or [::1]:8080")
    return (match[1] or "127.0.0.1").strip("[]"), int(match[2])


def read_token(path: Path | None) -> str:
    """Return the token in a file or, without one, in the environment variable; empty if there is none.

    Raises:
        ConfigError: the file cannot be read or is open to other users, or the token is too short or no plain text.
    """
    if path is None:
        place, token = TOKEN_VARIABLE, os.environ.get(TOKEN_VARIABLE, "")
        if not token:
            return ""
    else:
        place, token = str(path), _read(path)
    token = token.strip()
    if not MIN_TOKEN <= len(token) <= _MAX_TOKEN or not re.fullmatch(r"[!-~]*", token):
        raise ConfigError(
            f"the token of {place} is not {MIN_TOKEN} to {_MAX_TOKEN} letters, digits and signs without spaces; {_HOW}"
        )
    return token


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            content = file.read(4 * _MAX_TOKEN)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(f"cannot read the token of {path}: {reason}; check --token-file") from error
    if mode & (stat.S_IRWXO | stat.S_IWGRP):
        raise ConfigError(f"other users can read or change {path}; keep them out with: chmod 600 {path}")
    return content.decode("latin-1")


def _joined(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
