"""Events at an MQTT broker that is killed, refuses passwords, or has a certificate; Debian's mosquitto."""

import contextlib
import gc
import json
import socket
import ssl
import threading
import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from idol_runtime.delivery.mqtt import MqttSender
from idol_runtime.delivery.queue import Delivery, EventQueue
from idol_runtime.errors import ConfigError, OutputError
from idol_runtime.events import Event
from samples.events import problems
from samples.waiting import until
from servers.mosquitto import MOSQUITTO, Broker

mqtt = pytest.importorskip("paho.mqtt.client")

mosquitto = pytest.mark.skipif(
    not Path(MOSQUITTO).exists(), reason="mosquitto is missing; run scripts/install-test-packages"
)
BATCH = [Delivery(Event("lost", "front/door #1", "lost"), "a-1")]


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    with Broker(tmp_path) as broker:
        yield broker


@mosquitto
def test_a_broker_is_killed_and_started_again(broker: Broker) -> None:
    """Every event arrives, in order; those whose arrival was not confirmed come again."""
    told: list[Event] = []
    queue = EventQueue(MqttSender(f"mqtt://127.0.0.1:{broker.port}/site/a"), told.append, wait_s=0.05)

    def received() -> list[str]:
        return [topic.split("/")[2] for topic in broker.topics() if topic.endswith("/lost")]

    for number in range(60):
        queue(Event("lost", f"s{number}", "lost"))
        time.sleep(0.002)
        if number in (20, 40):
            broker.kill()
        if number in (30, 50):
            broker.start()
            events = 2 * (number // 20)
            until(lambda: len(told) == events)  # noqa: B023
    queue.finish(60)
    assert queue.join() == 0
    names = received()
    first = [name for i, name in enumerate(names) if name not in names[:i]]
    assert first == [f"s{number}" for number in range(60)]
    assert [event.kind for event in told] == ["output_stopped", "output_back"] * 2
    assert all(event.values.get("lost", 0) == 0 for event in told)


@mosquitto
def test_messages_and_the_retained_status(broker: Broker) -> None:
    """The status is `offline` after a lost connection and after the end."""
    messages: list[tuple[str, bytes]] = []
    client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2)
    client.on_message = lambda _client, _data, message: messages.append((message.topic, message.payload))
    client.connect("127.0.0.1", broker.port)
    client.subscribe("site/#", qos=1)
    client.loop_start()
    until(lambda: "SUBSCRIBE" in broker.log)
    sender = MqttSender(f"mqtt://127.0.0.1:{broker.port}/site/")
    try:
        sender.send(BATCH)
        until(lambda: len(messages) == 2)
        sender._client.socket().shutdown(socket.SHUT_RDWR)
        until(lambda: len(messages) == 3 and not sender._client.is_connected())
        with pytest.raises(OutputError, match=r"^the connection was lost; check the network and the broker$"):
            sender.send([])
        sender.send([])
        sender.close()
        until(lambda: len(messages) == 5)
    finally:
        client.disconnect()
        client.loop_stop()
    (_, payload), *_ = events = [message for message in messages if message[0] != "site/status"]
    assert [topic for topic, _ in events] == ["site/front_door_1/lost"]
    event: dict[str, Any] = json.loads(payload)
    assert problems(event) == []
    assert (event["source"], event["id"]) == ("front/door #1", "a-1")
    status = [payload for topic, payload in messages if topic == "site/status"]
    assert status == [b"online", b"offline", b"online", b"offline"]


@mosquitto
def test_passwords(tmp_path: Path) -> None:
    with Broker(tmp_path, password="pass/word") as broker:
        address = f"127.0.0.1:{broker.port}/site"
        sender = MqttSender(f"mqtt://user:pass%2Fword@{address}")
        sender.send(BATCH)
        sender.close()
        assert len(broker.topics()) == 3
        for user in ("", "user@", "user:wr0ng@"):
            sender = MqttSender(f"mqtt://{user}{address}")
            with pytest.raises(
                OutputError, match=r"^refuses the connection: Not authorized; check user,"
            ) as error:
                sender.send(BATCH)
            assert "wr0ng" not in f"{error.value} {sender.name}"


# The client leaves the socket of a failed handshake to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@mosquitto
def test_tls_is_verified(tmp_path: Path, certificate: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Broker(tmp_path, certificate=certificate) as broker:
        sender = MqttSender(f"mqtts://127.0.0.1:{broker.port}/site")
        with pytest.raises(OutputError, match="certificate verify failed"):
            sender.send(BATCH)
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        sender.send(BATCH)
        assert "site/front_door_1/lost" in broker.topics()
        sender.close()
        broker.kill()
        with pytest.raises(OutputError, match=r"refused; check the network and the broker"):
            sender.send([])
    gc.collect()


def test_a_server_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("idol_runtime.delivery.mqtt._TIMEOUT_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        sender = MqttSender(f"mqtt://127.0.0.1:{silent.getsockname()[1]}/site")
        with pytest.raises(OutputError, match=r"does not answer in 0\.2 s; check the port"):
            sender.send([])


@pytest.mark.parametrize("secure", [False, True], ids=["mqtt", "mqtts"])
def test_a_long_packet_of_a_broker_takes_no_memory(
    certificate: Path, monkeypatch: pytest.MonkeyPatch, secure: bool
) -> None:
    loop_start = mqtt.Client.loop_start

    def start(client: Any) -> None:  # after the handshake, which has more time
        monkeypatch.setattr("idol_runtime.delivery.mqtt._TIMEOUT_S", 0.5)
        loop_start(client)

    monkeypatch.setattr(mqtt.Client, "loop_start", start)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, certificate.with_suffix(".key"))

    def answer(server: socket.socket) -> None:
        connection, _ = server.accept()
        connection.settimeout(60)
        with (
            contextlib.suppress(OSError),  # the client ends the connection at any time
            context.wrap_socket(connection, server_side=True) if secure else connection as client,
        ):
            client.recv(1000)
            client.sendall(b"\x20\xff\xff\xff\x7f")  # CONNACK of 256 MiB
            client.recv(1)  # its end

    with socket.create_server(("127.0.0.1", 0)) as server:
        broker = threading.Thread(target=answer, args=(server,))
        broker.start()
        sender = MqttSender(f"mqtt{'s' * secure}://127.0.0.1:{server.getsockname()[1]}/site")
        tracemalloc.start()
        try:
            with pytest.raises(OutputError, match="does not answer"):
                sender.send([])
            assert tracemalloc.get_traced_memory()[1] < 10 * 2**20
        finally:
            tracemalloc.stop()
            broker.join()


@pytest.mark.parametrize(
    "url",
    [
        "",
        "mqtt://host",
        "mqtt://host/",
        "http://host/a",
        "mqtt:///a",
        "mqtt://host/a/#",
        "mqtt://host/+/a",
        "mqtt://host/%23",
        "mqtt://host/$SYS",
        "mqtt://host:99999/a",
        "mqtt://[::1/a",
        "mqtt://host/a?b=c",
    ],
)
def test_urls_that_cannot_be_used(url: str) -> None:
    with pytest.raises(ConfigError, match=r"^--mqtt is no usable URL; give mqtt://HOST/TOPIC or mqtts://"):
        MqttSender(url)
