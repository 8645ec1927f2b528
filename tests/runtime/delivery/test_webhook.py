"""Events over HTTP: failures, slow answers, redirects, and what is no HTTP."""

import socket
import threading
import time
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from idol_runtime.delivery import webhook
from idol_runtime.delivery.queue import Delivery, EventQueue, RejectedError
from idol_runtime.delivery.webhook import WebhookSender
from idol_runtime.errors import ConfigError, OutputError
from idol_runtime.events import Event
from samples.events import problems
from samples.waiting import until
from servers.rtsp import free_port
from servers.webhook import Webhook, drip

EVENT = Event("back", "door", "sends again after 2.5 s", {"gap_s": 2.5})
BATCH = [Delivery(EVENT, "a-1")]


def with_user(url: str) -> str:
    return url.replace("://", "://us%40er:pass%2Fword@")


def test_events_arrive_once_the_receiver_works() -> None:
    """Errors, rate limits and answers that are no HTTP; the same events come again with the same ids."""

    def garbage(client: BaseHTTPRequestHandler) -> None:
        client.wfile.write(b"\x00\xff\r\n\r\n")

    def drop(client: BaseHTTPRequestHandler) -> None:
        client.connection.shutdown(socket.SHUT_RDWR)

    told: list[Event] = []
    with Webhook() as server:
        server.answer = 503
        queue = EventQueue(WebhookSender(with_user(server.url)), told.append, wait_s=0.02)
        queue(EVENT)
        for answer in (429, 408, garbage, drop, 200):
            count = len(server.requests)
            until(lambda: len(server.requests) > count)  # noqa: B023
            server.answer = answer
        until(lambda: server.accepted)
        queue(EVENT)
        queue.finish(60)
        assert queue.join() == 0
        assert {event["id"] for events, _ in server.requests[:-1] for event in events} == {
            server.accepted[0]["id"]
        }
        assert len({event["id"] for event in server.accepted}) == 2
        for event in server.accepted:
            assert problems(event) == []
            assert {key: event[key] for key in ("kind", "source", "values")} == {
                "kind": "back",
                "source": "door",
                "values": {"gap_s": 2.5},
            }
        assert server.headers["path"] == "/hooks/s3cret"
        assert server.headers["Content-Type"] == "application/json"
        assert server.headers["Authorization"] == "Basic dXNAZXI6cGFzcy93b3Jk"
    assert [event.kind for event in told] == ["output_stopped", "output_back"]
    assert told[0].message.startswith("answers 503 Service Unavailable; check the receiver")
    assert "word" not in str(told)
    assert "s3cret" not in str(told)


@pytest.mark.parametrize("status", [400, 401, 404, 413, 301, 302, 307, 308])
def test_rejections_and_redirects_are_final(status: int) -> None:
    with Webhook() as server:
        server.answer = status
        with pytest.raises(RejectedError, match=f"^answers {status} .*(check|give) the URL"):
            WebhookSender(server.url).send(BATCH)
        assert len(server.requests) == 1, "no redirect is followed"


def test_slow_answers_and_dead_receivers_end_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    sender = WebhookSender(f"http://127.0.0.1:{free_port()}/")
    with pytest.raises(
        OutputError, match=r"cannot be reached: .*refused; check the network and the receiver"
    ):
        sender.send(BATCH)
    monkeypatch.setattr(webhook, "_TIMEOUT_S", 0.3)
    silent = socket.create_server(("127.0.0.1", 0))
    with Webhook() as server, silent:
        server.answer = drip
        for url in (server.url, f"http://127.0.0.1:{silent.getsockname()[1]}/"):
            start = time.monotonic()
            with pytest.raises(OutputError, match=r"no answer in 0\.3 s|timed out"):
                WebhookSender(url).send(BATCH)
            assert time.monotonic() - start < 15
    until(lambda: not [thread for thread in threading.enumerate() if isinstance(thread, threading.Timer)])


def test_tls_is_verified(certificate: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Webhook(certificate) as server:
        with pytest.raises(OutputError, match=r"certificate verify failed"):
            WebhookSender(server.url).send(BATCH)
        assert server.requests == []
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        WebhookSender(server.url).send(BATCH)
        assert len(server.accepted) == 1


@pytest.mark.parametrize(
    "url",
    [
        "",
        "host/path",
        "ftp://host/",
        "file:///etc/passwd",
        "http://",
        "http:///path",
        "http://host:99999/",
        "http://host/a b",
        "http://host/\r\nX: y",
        "http://höst/",
        "http://host/#part",
        "http://[::1/",
        "http://a..b/",
    ],
)
def test_urls_that_cannot_be_used(url: str) -> None:
    with pytest.raises(ConfigError, match=r"^--webhook is no usable URL; give http://HOST/PATH"):
        WebhookSender(url)


def test_names_have_no_secrets() -> None:
    url: Any = "https://user:pass@[::1]:8443/hook/secret?key=secret"
    assert WebhookSender(url).name == "https://[::1]:8443"
