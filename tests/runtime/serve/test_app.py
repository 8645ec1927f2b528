"""Routes: their answers, and the refusal of what they do not expect."""

import json
import time
from contextlib import ExitStack
from types import SimpleNamespace
from urllib.parse import quote

import pytest
from pycocotools import mask as masks

from idol_runtime.events import Event
from idol_runtime.serve import app as app_module
from idol_runtime.serve.app import build_app
from idol_runtime.serve.hub import Hub
from idol_runtime.serve.messages import EventMessage
from idol_runtime.serve.pictures import Pictures, draw_message

JSON = {"content-type": "application/json"}


@pytest.fixture
def hub(kit: SimpleNamespace) -> Hub:
    hub = Hub(kit.hello(), lambda message: None)
    hub.receive(kit.frame())
    return hub


@pytest.fixture
def get(hub: Hub, kit: SimpleNamespace):
    app = build_app(hub, Pictures(hub.hello.class_names, hub.show))
    return lambda path, **options: kit.ask(app, path, **options)


def test_streams_and_results(get, hub, kit) -> None:
    streams = get("/api/streams").json
    assert streams["editable"] is True
    assert [entry["name"] for entry in streams["streams"]] == ["door", "a/b ü"]
    assert streams["streams"][0]["up"] is True
    assert (streams["streams"][0]["frames"], streams["streams"][0]["dropped"]) == (8, 2)
    result = get("/api/streams/door/result").json
    assert [instance["class"] for instance in result["instances"]] == ["dog", "cat"]
    assert result["instances"][0]["box_xyxy"] == [0.0, 0.0, 512.0, 192.0]
    assert get("/api/streams/a/b ü/result").status == 503
    hub.receive(kit.frame("a/b ü", 1, age_s=None))
    assert get("/api/streams/a/b ü/result").json["age_s"] is None


def test_tracks_history_and_thumbnails(get, hub, kit) -> None:
    wall = int(time.time()) - 5 + 0.5
    hub.receive(kit.frame(index=8, wall=wall, dropped=5))
    hub.receive(kit.frame(index=9, wall=wall + 0.1, dropped=5, stages={"network": 0.025}, ids=[3, 4]))
    tracks = get("/api/streams/door/tracks").json["tracks"]
    assert [(track["id"], track["present"]) for track in tracks] == [(4, True), (12, False), (3, True)]
    history = get("/api/streams/door/history?seconds=60").json
    place = history["time"].index(int(wall))
    assert len(history["time"]) == 60
    assert (history["frames"][place], history["dropped"][place]) == (2, 3)
    assert history["stages"]["network"][place] == pytest.approx(0.02)
    assert history["stages"]["wait"][place] == pytest.approx(0.001)
    assert history["age_s"][place] == pytest.approx(0.0195)
    assert history["age_s"][place - 1] is None
    assert get("/api/streams/door/tracks/3.jpg").status == 404
    hub.show(draw_message(kit.frame(picture=True), ("cat", "dog"), [3]))
    assert get("/api/streams/door/tracks/3.jpg").body[:2] == b"\xff\xd8"
    assert get("/api/streams/door/tracks/12.jpg").status == 404
    assert get("/api/streams/door/picture.jpg").body[:2] == b"\xff\xd8"


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools on numpy 2
def test_masks_are_those_of_the_frame(get, hub, kit) -> None:
    hub.show(draw_message(kit.frame(picture=True), ("cat", "dog"), []))
    first, second = get("/api/streams/door/result?masks=1").json["instances"]
    mask = masks.decode(first["mask"])
    assert mask.shape == (384, 512)
    assert mask[:180].all()
    assert not mask[200:].any()
    assert not masks.decode(second["mask"]).any()


def test_events_continue_after_the_last_one_received(get, hub) -> None:
    for number in range(3):
        hub.receive(EventMessage(Event("lost", "door", f"event {number}"), 1000 + number))
    first = hub.last_event - 2

    def received(path: str = "/api/events", **headers: str) -> list[tuple[int, str]]:
        text = get(path, headers=headers, most=1).body.decode()
        lines = [line for line in text.splitlines() if line and line != ":"]
        events = zip(lines[::2], lines[1::2], strict=True)
        return [
            (int(i.removeprefix("id: ")), json.loads(d.removeprefix("data: "))["message"]) for i, d in events
        ]

    assert received() == []
    assert received("/api/events?recent=1") == [(first + 2, "event 2")]
    assert received(**{"last-event-id": str(first)}) == [(first + 1, "event 1"), (first + 2, "event 2")]
    for unknown in ("1", "9" * 19, "9" * 5000):
        assert len(received(**{"last-event-id": unknown})) == 3
    assert received(**{"last-event-id": "nonsense"}) == []


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/api/streams/nobody/result", 404),
        ("/api/streams/door/result?masks=2", 400),
        ("/api/streams/door/result?masks=" + "0" * 30 + "1", 400),
        ("/api/streams/door/results?rate=0", 400),
        ("/api/streams/door/history?seconds=601", 400),
        ("/api/streams/door/history?seconds=-1", 400),
        ("/api/streams/door/history?seconds=²", 400),
        ("/api/events?recent=x", 400),
        ("/api/live?stream=door&stream=nobody", 404),
        ("/api/streams/door/tracks/../../../etc/passwd.jpg", 405),
        ("/api/streams/door/tracks/99999999999999999999999.jpg", 404),
        ("/page/../server.py", 404),
        ("/page/..%2fserver.py", 404),
        ("/page//etc/passwd", 404),
        ("/nonsense", 404),
    ],
)
def test_what_is_not_expected_is_refused(get, path: str, status: int) -> None:
    plain, _, query = path.partition("?")
    answer = get(f"{plain}?{quote(query, safe='=&')}" if query else plain)
    assert answer.status == status
    assert answer.json["error"]


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"[" * 5000, b'{"a": {}}', b'{"a": 1e999}', b"\xff", b'{"a": "\\ud800"}']
)
def test_broken_bodies_are_refused(get, body: bytes) -> None:
    assert get("/api/streams", method="POST", headers=JSON, body=body).status == 400
    assert get("/api/streams", method="PUT", headers=JSON, body=body).status == 405


def test_a_fixed_list_of_streams_and_a_run_without_page(kit) -> None:
    hub = Hub(kit.hello(editable=False), lambda message: None)
    app = build_app(hub, Pictures([], hub.show))
    answer = kit.ask(app, "/api/streams", method="POST", headers=JSON, body=b'{"name": "a"}')
    assert (answer.status, "start serve with a .json file" in answer.json["error"]) == (409, True)
    assert kit.ask(app, "/api/streams/door", method="DELETE").status == 409
    hub = Hub(kit.hello(page=False), lambda message: None)
    app = build_app(hub, Pictures([], hub.show))
    statuses = [kit.ask(app, path).status for path in ("/metrics", "/healthz", "/api/streams", "/")]
    assert statuses == [200, 200, 404, 404]


def test_too_many_clients_are_told_so(get, hub) -> None:
    with ExitStack() as clients:
        for _ in range(64):
            clients.enter_context(hub.subscribe({("stats", "")}, "127.0.0.1"))
        for path in ("/api/events", "/api/live", "/api/streams/door/video", "/api/streams/door/picture.jpg"):
            answer = get(path)
            assert (answer.status, answer.headers["retry-after"]) == (503, "5")
            assert answer.json["error"].startswith("too many clients: 64")


def test_page_files_and_schema(kit, monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    (tmp_path / "index.html").write_text("<!doctype html>")
    (tmp_path / "page.css").write_text("p {}")
    monkeypatch.setattr(app_module, "_PAGE", tmp_path)
    hub = Hub(kit.hello(token=kit.token), lambda message: None)
    app = build_app(hub, Pictures([], hub.show))
    answer = kit.ask(app, "/page/page.css")
    assert (answer.status, answer.headers["content-type"]) == (200, "text/css; charset=utf-8")
    bearer = {"authorization": f"Bearer {kit.token}"}
    assert kit.ask(app, "/", headers=bearer).body == b"<!doctype html>"


def test_the_schema_of_events_is_served(get) -> None:
    answer = get("/api/events/schema.json")
    assert answer.headers["content-type"] == "application/schema+json"
    assert answer.json["$schema"].startswith("https://json-schema.org/")
