"""The guard before the application: names, origins, limits and the token."""

import socket
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from idol_runtime.serve import security
from idol_runtime.serve.app import build_app
from idol_runtime.serve.hub import Hub
from idol_runtime.serve.pictures import Pictures

JSON = {"content-type": "application/json"}


@pytest.fixture(autouse=True)
def now(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """The clock of the guard, which stands still: all limits are per second or minute."""
    clock = SimpleNamespace(seconds=100.0, wall=time.time())
    monkeypatch.setattr(
        security, "time", SimpleNamespace(monotonic=lambda: clock.seconds, time=lambda: clock.wall)
    )
    return clock


@pytest.fixture
def make_app(kit: SimpleNamespace):
    def make(**changes: object):
        hub = Hub(kit.hello(**changes), lambda message: None)
        return build_app(hub, Pictures(["cat"], hub.show))

    return make


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost:8080", 200),
        ("CAMERAS.example", 200),
        ("10.0.0.5:8080", 200),
        ("[::1]:8080", 200),
        ("evil.example:8080", 403),
        ("localhost.evil.example", 403),
        ("127.0.0.1.evil.example", 403),
        ("[::1", 403),
        ("", 403),
    ],
)
def test_only_own_names_are_served(make_app, kit, host: str, status: int) -> None:
    answer = kit.ask(make_app(), "/api/streams", headers={"host": host})
    assert answer.status == status
    assert answer.headers["content-type"] == "application/json"


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({**JSON}, 400),  # the body is no stream: the request reached the application
        ({**JSON, "origin": "http://localhost:8080", "sec-fetch-site": "same-origin"}, 400),
        ({**JSON, "origin": "https://localhost:8080"}, 400),  # behind a proxy with TLS
        ({**JSON, "origin": "http://localhost:9090"}, 403),
        ({**JSON, "origin": "http://evil.example"}, 403),
        ({**JSON, "origin": "null"}, 403),
        ({**JSON, "origin": "http://[evil"}, 403),
        ({**JSON, "sec-fetch-site": "cross-site"}, 403),
        ({"content-type": "text/plain"}, 415),
        ({}, 415),
    ],
)
def test_changes_come_from_the_own_page_or_a_program(make_app, kit, headers, status: int) -> None:
    answer = kit.ask(make_app(), "/api/streams", method="POST", headers=headers, body=b"[]")
    assert answer.status == status
    assert "error" in answer.json


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}, 200),  # a link
        ({"sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors"}, 403),  # an <img>
        ({"sec-fetch-site": "same-origin", "sec-fetch-mode": "cors"}, 200),
        ({"origin": "http://evil.example"}, 403),
    ],
)
def test_pages_of_other_sites_may_only_link(make_app, kit, headers, status: int) -> None:
    assert kit.ask(make_app(), "/api/streams", headers=headers).status == status


def test_long_headers_are_refused(make_app, kit) -> None:
    """The parser only limits what arrives in pieces."""
    app = make_app()
    assert kit.ask(app, "/api/streams", headers={"x-long": "x" * 15000}).status == 200
    answer = kit.ask(app, "/api/streams", headers={"x-long": "x" * 16000})
    assert (answer.status, answer.json["error"]) == (400, "the headers have more than 16000 bytes")


def test_long_bodies_are_refused(make_app, kit) -> None:
    app = make_app()
    post = {"method": "POST"}
    chunks = [b"[" * 8000] * 9
    assert kit.ask(app, "/api/streams", headers=JSON, body=chunks, **post).status == 413
    assert kit.ask(app, "/api/streams", headers=JSON, body=chunks[:8], **post).status == 400
    assert kit.ask(app, "/api/streams", headers={"content-length": "5"}, body=b"hello").status == 400
    smuggled = {**JSON, "content-length": "60", "transfer-encoding": "chunked"}
    answer = kit.ask(app, "/api/streams", headers=smuggled, body=b"[]", **post)
    assert (answer.json["error"][:11], answer.headers["connection"]) == ("two lengths", "close")


def test_requests_per_second_are_limited(make_app, kit, now, monkeypatch: pytest.MonkeyPatch) -> None:
    buckets = security.Buckets(10, 5, addresses=2)
    assert [buckets.take("a", now.seconds) for _ in range(6)] == [True] * 5 + [False]
    assert buckets.take("b", now.seconds)
    now.seconds += 0.15
    assert [buckets.take("a", now.seconds) for _ in range(2)] == [True, False]
    buckets.take("c", now.seconds)
    assert len(buckets._left) == 2
    monkeypatch.setattr(security, "_BURST", 8.0)
    app = make_app()
    statuses = [kit.ask(app, "/healthz").status for _ in range(9)]
    assert statuses == [200] * 8 + [429]
    assert kit.ask(app, "/healthz", client="10.0.0.9").status == 200


def test_a_token_protects_everything_but_health(make_app, kit) -> None:
    app = make_app(token=kit.token)
    bearer = {"authorization": f"Bearer {kit.token}"}
    for path in ("/metrics", "/api/streams", "/api/live", "/nonsense"):
        answer = kit.ask(app, path)
        assert answer.status == 401
        assert answer.headers["www-authenticate"] == "Bearer"
    assert kit.ask(app, "/metrics", headers=bearer).status == 200
    assert kit.ask(app, "/metrics", headers={"authorization": f"Basic {kit.token}"}).status == 401
    assert kit.ask(app, "/healthz").status == 200
    assert kit.ask(app, "/readyz").status == 503
    assert (kit.ask(app, "/").status, kit.ask(app, "/").headers["location"]) == (303, "/login")


def _log_in(app, kit, token: str, **options):
    headers = {"content-type": "application/x-www-form-urlencoded", **options.pop("headers", {})}
    return kit.ask(app, "/login", method="POST", headers=headers, body=f"token={token}".encode(), **options)


def test_browsers_log_in_with_a_cookie(make_app, kit, now) -> None:
    app = make_app(token=kit.token)
    assert b"<form" in kit.ask(app, "/login").body
    assert [kit.ask(app, "/login", method="HEAD").status for _ in range(11)] == [200] * 11
    assert _log_in(app, kit, "wrong").status == 401
    assert _log_in(app, kit, kit.token, headers={"origin": "http://evil.example"}).status == 403
    answer = _log_in(app, kit, kit.token)
    assert (answer.status, answer.headers["location"]) == (303, "/")
    cookie, *attributes = answer.headers["set-cookie"].split("; ")
    assert {"HttpOnly", "SameSite=Strict", "Path=/"} <= set(attributes)
    assert "Secure" not in attributes
    assert kit.token not in cookie
    assert _log_in(app, kit, kit.token, scheme="https").headers["set-cookie"].endswith("; Secure")
    # The cookie survives a restart of the server, and no change of the token.
    assert kit.ask(make_app(token=kit.token), "/api/streams", headers={"cookie": cookie}).status == 200
    assert kit.ask(make_app(token="another-token"), "/api/streams", headers={"cookie": cookie}).status == 401
    name, _, value = cookie.partition("=")
    number, end, signature = value.split(".")
    for forged in (f"{number}.{int(end) + 1}.{signature}", f"{number}.{end}.", signature, "é.9.", ".."):
        assert kit.ask(app, "/metrics", headers={"cookie": f"{name}={forged}"}).status == 401
    # Browsers send the cookies of all ports of a host, whatever is in them.
    for others in ('a={"b": 1}; {}; c=é', "a b; {}", f"{name}=old.1.x; {{}}", f"{{}}; {name}=", "=;;{}"):
        header = {"cookie": others.replace("{}", cookie)}
        assert kit.ask(app, "/api/streams", headers=header).status == 200, others
    assert kit.ask(app, "/api/streams", headers={"cookie": f'{name}="' + "\\" * 15_000}).status == 401
    now.wall += 13 * 3600
    assert kit.ask(app, "/api/streams", headers={"cookie": cookie}).status == 401


@pytest.mark.skipif(not Path("/proc/net/if_inet6").exists(), reason="the machine has no IPv6")
def test_ipv4_clients_of_every_address_have_their_own_limits(start_server, kit) -> None:
    listener = socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True)
    server = start_server(listener=listener, token=kit.token)

    def status(client: str, token: str) -> int:
        headers = {"Authorization": f"Bearer {token}", "X-Forwarded-For": client}
        with server.request("GET", "/metrics", headers=headers) as response:
            return response.status

    wrong = [status("10.0.0.8", "wrong") for _ in range(11)]
    for _ in range(10):  # one more in ten seconds
        wrong += [status("10.0.0.8", "wrong")] if wrong[-1] == 401 else []
    assert wrong == [401] * (len(wrong) - 1) + [429]
    assert [status(client, kit.token) for client in ("10.0.0.9", "127.0.0.1", "2001:db8::1")] == [200] * 3


@pytest.mark.parametrize(
    ("host", "address"),
    [
        ("10.0.0.5", "10.0.0.5"),
        ("::ffff:10.0.0.5", "10.0.0.5"),
        ("::ffff:127.0.0.1", "127.0.0.1"),
        ("::1", "::1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::"),
        ("fe80::1%eth0", "fe80::"),
        ("unknown", "unknown"),
    ],
)
def test_clients_are_told_apart_by_their_address(host: str, address: str) -> None:
    assert security.client_address(host) == address


def test_wrong_tokens_are_limited_by_address(make_app, kit) -> None:
    app = make_app(token=kit.token)
    assert [_log_in(app, kit, "wrong").status for _ in range(11)] == [401] * 10 + [429]
    bearer = {"authorization": f"Bearer {kit.token}"}
    assert kit.ask(app, "/metrics", headers=bearer).status == 429
    assert kit.ask(app, "/metrics", headers=bearer, client="10.0.0.9").status == 200


def test_every_response_has_the_headers_of_security(make_app, kit) -> None:
    for answer in (kit.ask(make_app(), "/api/streams"), kit.ask(make_app(), "/", headers={"host": "evil"})):
        assert answer.headers["content-security-policy"].startswith("default-src 'none'; ")
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert "access-control-allow-origin" not in answer.headers
        assert answer.headers["cache-control"] == "no-store"
    assert kit.ask(make_app(), "/").headers["cache-control"] == "no-cache", (
        "the files of the page are no secret"
    )


def test_an_unexpected_error_is_logged_and_tells_nothing(make_app, kit, monkeypatch, caplog) -> None:
    app = make_app()
    monkeypatch.setattr(Hub, "streams_json", lambda self: [][0])
    answer = kit.ask(app, "/api/streams")
    assert (answer.status, answer.json) == (500, {"error": "internal error; see the log of the server"})
    assert "IndexError" in caplog.text
    caplog.clear()
    kit.ask(app, "/api/streams")
    assert not caplog.text
