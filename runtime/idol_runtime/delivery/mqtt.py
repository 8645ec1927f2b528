"""Events as messages of an MQTT broker, with the Eclipse Foundation's client (paho-mqtt).

The topic of an event is `PREFIX/SOURCE/KIND`, and its message a JSON object. The retained message of `PREFIX/status` is
`online` during the run, and `offline` after it or when the connection is lost.
"""

import contextlib
import re
import socket
import ssl
import threading
import time
from collections.abc import Sequence
from typing import Any
from urllib.parse import unquote, urlsplit

from idol_runtime.delivery.queue import Delivery
from idol_runtime.errors import ConfigError, OutputError
from idol_runtime.json_text import to_json
from idol_runtime.optional import import_optional

__all__ = ["MqttSender"]

# Longest time for a connection, and for the confirmation of a batch of messages.
_TIMEOUT_S = 10.0
# A broker publishes `offline` when it has heard nothing for one and a half times as long.
_KEEPALIVE_S = 20
_PORTS = {"mqtt": 1883, "mqtts": 8883}
_MAX_LEVEL = 100
# Bytes of a packet of the broker; a confirmation has 2.
_MAX_PACKET = 64


class _SmallPackets:
    """A socket that reads short packets only; without a limit, a broker can have the client allocate 256 MiB."""

    __slots__ = ()

    def recv(self, buflen: int = 1024, flags: int = 0) -> bytes:
        if buflen > _MAX_PACKET:  # the client reads the rest of a packet in one call
            raise OSError(f"a packet of {buflen} bytes")
        received: bytes = super().recv(buflen, flags)  # type: ignore[misc]
        return received


class _Socket(_SmallPackets, socket.socket):
    __slots__ = ()


class _TlsSocket(_SmallPackets, ssl.SSLSocket):
    __slots__ = ()


class MqttSender:
    """A broker that takes events, with a quality of service of 1: each is sent until its arrival is confirmed."""

    def __init__(self, url: str) -> None:
        """Read a URL, such as `mqtts://user:password@host:8883/topic`; nothing is connected yet.

        Raises:
            ConfigError: it is no URL of MQTT, or has no prefix of topics.
            MissingDependencyError: paho-mqtt is not installed.
        """
        try:
            parts = urlsplit(url)
            scheme, host, port = parts.scheme, parts.hostname, parts.port
        except ValueError:
            scheme, host, port = "", None, None
        prefix = unquote(parts.path).strip("/") if scheme in _PORTS else ""
        if host is None or not prefix or re.search(r"[+#\x00-\x1f]|^\$", prefix) or {*"?#"} & {*url}:
            raise ConfigError(
                "--mqtt is no usable URL; give mqtt://HOST/TOPIC or mqtts://USER:PASSWORD@HOST:PORT/TOPIC, with %XX "
                "for special characters; TOPIC begins all topics and has no + and #"
            )
        self._mqtt: Any = import_optional("paho.mqtt.client", "paho-mqtt", "mqtt", "--mqtt")
        self._host, self._port, self._tls = host, port or _PORTS[scheme], scheme == "mqtts"
        self._user = None if parts.username is None else unquote(parts.username)
        self._password = None if parts.password is None else unquote(parts.password)
        self.name = f"{scheme}://{f'[{host}]' if ':' in host else host}:{self._port}"
        self._prefix = prefix
        self._client: Any = None

    def send(self, batch: Sequence[Delivery]) -> None:
        """Publish events and wait for their confirmations; connect first if there is no connection.

        Raises:
            OutputError: the broker cannot be reached, refuses the connection, or does not confirm in time.
        """
        try:
            if self._client is None:
                self._client = self._connect()
            messages = [(self._topic(delivery), to_json(delivery.encode())) for delivery in batch]
            self._publish(self._client, messages)
        except (OSError, RuntimeError, ValueError, OutputError) as error:
            self._drop()
            if isinstance(error, OutputError):
                raise
            problem = getattr(error, "strerror", None) or error
            raise OutputError(f"cannot be reached: {problem}; check the network and the broker") from error

    def close(self) -> None:
        """Publish the end and close the connection."""
        if self._client is not None:
            with contextlib.suppress(OSError, RuntimeError, ValueError, OutputError):
                self._publish(self._client, [(f"{self._prefix}/status", b"offline")], retain=True)
            self._drop()

    def _topic(self, delivery: Delivery) -> str:
        source = re.sub(r"[^\w.-]+", "_", delivery.event.source)[:_MAX_LEVEL] or "_"
        return f"{self._prefix}/{source}/{delivery.event.kind}"

    def _connect(self) -> Any:
        """Return a connected client; a new one each time, which has no messages of the one before."""
        answered, problems = threading.Event(), list[str]()

        def on_connect(client: Any, data: object, flags: object, reason: Any, properties: object) -> None:
            if reason.is_failure:
                problems.append(str(reason))
            answered.set()

        def on_socket_open(client: Any, data: object, opened: socket.socket) -> None:
            opened.__class__ = _TlsSocket if isinstance(opened, ssl.SSLSocket) else _Socket

        client = self._mqtt.Client(self._mqtt.CallbackAPIVersion.VERSION2, reconnect_on_failure=False)
        client.on_connect, client.on_socket_open = on_connect, on_socket_open
        client.connect_timeout = _TIMEOUT_S
        client.will_set(f"{self._prefix}/status", b"offline", qos=1, retain=True)
        if self._user is not None:
            client.username_pw_set(self._user, self._password)
        if self._tls:
            client.tls_set()
        self._client = client  # closed by `_drop` from now on
        client.connect(self._host, self._port, keepalive=_KEEPALIVE_S)
        client.loop_start()
        if not answered.wait(_TIMEOUT_S):
            raise OutputError(f"does not answer in {_TIMEOUT_S:g} s; check the port and the broker")
        if problems:
            raise OutputError(f"refuses the connection: {problems[0]}; check user, password and rights")
        self._publish(client, [(f"{self._prefix}/status", b"online")], retain=True)
        return client

    def _publish(self, client: Any, messages: Sequence[tuple[str, bytes]], *, retain: bool = False) -> None:
        infos = [client.publish(topic, payload, qos=1, retain=retain) for topic, payload in messages]
        deadline = time.monotonic() + _TIMEOUT_S
        if not client.is_connected():
            raise OutputError("the connection was lost; check the network and the broker")
        for info in infos:
            while not info.is_published():
                if not client.is_connected():
                    raise OutputError("the connection was lost; check the network and the broker")
                if time.monotonic() > deadline:
                    raise OutputError(f"does not confirm in {_TIMEOUT_S:g} s; check the broker")
                info.wait_for_publish(0.1)

    def _drop(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            with contextlib.suppress(OSError, RuntimeError, ValueError):
                client.disconnect()
                client.loop_stop()
