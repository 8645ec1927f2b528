"""Outputs of events of `idol-deploy run`: a file, a broker and a webhook get the same events, and nobody a password."""

from __future__ import annotations

import argparse
import json
import re
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from idol_deploy.commands.event_outputs import EventOutputs, add_event_outputs, open_event_outputs
from idol_runtime.delivery import queue
from idol_runtime.delivery.event_file import EventFile
from idol_runtime.delivery.queue import Delivery, EventQueue
from idol_runtime.events import Event
from samples.events import problems
from samples.waiting import LIMIT_S
from servers.mosquitto import MOSQUITTO, Broker
from servers.rtsp import free_port
from servers.webhook import Webhook

if TYPE_CHECKING:
    from tests.conftest import Toy
    from tests.idol_deploy.conftest import Command


@pytest.fixture(autouse=True)
def _all_events_arrive(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queue, "FLUSH_S", LIMIT_S)


def test_a_file_and_a_webhook_get_the_same_events(
    idol: Command, toy: Toy, images: Path, tmp_path: Path
) -> None:
    with Webhook() as server:
        url = tmp_path / "url"
        url.write_text(server.url.replace("://", "://user:passw0rd@") + "\n")
        done = idol(
            *("run", toy.path, "--source", images, "--jsonl", tmp_path / "a.jsonl"),
            *("--events", tmp_path / "events", "--webhook", f"@{url}"),
        )
    assert (done.status, done.err) == (0, ""), "no event of a track is printed"
    events = [json.loads(line) for line in (tmp_path / "events").read_text().splitlines()]
    assert {"track_enter", "track_leave", "ended"} <= {event["kind"] for event in events}
    assert [{key: event[key] for key in event if key != "id"} for event in server.accepted] == events
    assert [problem for event in (*events, *server.accepted) for problem in problems(event)] == []
    lines = (tmp_path / "a.jsonl").read_text().splitlines()
    identities = {instance["id"] for line in lines for instance in json.loads(line)["instances"]}
    for kind in ("track_enter", "track_leave"):
        assert {event["values"]["id"] for event in events if event["kind"] == kind} == identities


def test_the_limits_of_the_outputs_are_those_of_the_file(
    idol: Command, toy: Toy, images: Path, tmp_path: Path
) -> None:
    arguments = "run", toy.path, "--source", images, "--events", tmp_path / "events.jsonl"
    assert idol(*arguments, "--rotate", "1kB", "--retain", "2kB").status == 0
    paths = list(tmp_path.glob("events*"))
    assert all(re.fullmatch(r"events-\d{8}T\d{6}Z(-\d+)?\.jsonl", path.name) for path in paths)
    assert 1000 < sum(path.stat().st_size for path in paths) <= 2000
    assert "--retain deletes whole files and needs --rotate" in idol(*arguments, "--retain", "2kB").err


def test_a_disk_that_hangs_holds_up_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, hangs = tmp_path / "events", threading.Event()
    send = EventFile.send

    def send_later(self: EventFile, batch: Sequence[Delivery]) -> None:
        hangs.wait(LIMIT_S)
        send(self, batch)

    monkeypatch.setattr(EventFile, "send", send_later)
    parser = argparse.ArgumentParser()
    add_event_outputs(parser)
    options = parser.parse_args(["--events", str(path)])
    options.rotate, options.retain, options.sync = None, None, "1"
    with open_event_outputs(options) as tell:
        for number in range(10_200):
            tell(Event("track_enter", "door", str(number)))
        assert path.read_bytes() == b""
        hangs.set()
    messages = [int(json.loads(line)["message"]) for line in path.read_text().splitlines()]
    assert messages[-1] == 10_199
    assert messages == sorted(messages)
    assert 10_000 <= len(messages) <= 10_100, "the newest ones, and those that were being written"


@pytest.mark.skipif(
    not Path(MOSQUITTO).exists(), reason="mosquitto is missing; run scripts/install-test-packages"
)
def test_a_broker_gets_the_events(idol: Command, toy: Toy, images: Path, tmp_path: Path) -> None:
    pytest.importorskip("paho.mqtt.client")
    with Broker(tmp_path, password="passw0rd") as broker:
        url = f"mqtt://user:passw0rd@127.0.0.1:{broker.port}/site"
        done = idol("run", toy.path, "--source", images, "--mqtt", url)  # and no other output
        topics = broker.topics()
    assert (done.status, done.err) == (0, "")
    first, *_, last = topics
    assert (first, last) == ("site/status", "site/status")
    assert {topic.rpartition("/")[2] for topic in topics} >= {"track_enter", "track_leave", "ended"}


def test_a_receiver_that_is_down_does_not_change_the_run(
    idol: Command, toy: Toy, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped = threading.Event()
    tell, finish = EventOutputs.__call__, EventQueue.finish

    def tell_it(self: EventOutputs, event: Event) -> None:
        tell(self, event)
        if event.kind == "output_stopped":
            stopped.set()

    def finish_later(self: EventQueue, seconds: float) -> None:
        assert stopped.wait(LIMIT_S)
        finish(self, 0.2)

    monkeypatch.setattr(EventOutputs, "__call__", tell_it)
    monkeypatch.setattr(EventQueue, "finish", finish_later)
    url = f"http://user:passw0rd@127.0.0.1:{free_port()}/s3cret"
    done = idol("run", toy.path, "--source", images, "--jsonl", tmp_path / "a.jsonl", "--webhook", url)
    assert done.status == 0
    first, lost = done.err.splitlines()
    assert "http://127.0.0.1:" in first
    assert "cannot be reached: " in first
    assert "events not delivered: " in lost
    assert "passw0rd" not in done.out + done.err
    assert "s3cret" not in done.out + done.err


@pytest.mark.parametrize(
    ("option", "url", "problem"),
    [
        (
            "--webhook",
            "@missing",
            "cannot read a URL from missing: No such file or directory; check the path",
        ),
        ("--webhook", "ftp://user:passw0rd@host", "--webhook is no usable URL; give http://HOST/PATH"),
        ("--mqtt", "mqtt://user:passw0rd@host", "--mqtt is no usable URL; give mqtt://HOST/TOPIC"),
    ],
)
def test_urls_are_checked_before_the_network_is_loaded(
    refused: Callable[..., str], images: Path, option: str, url: str, problem: str
) -> None:
    message = refused("run", "missing.idol", "--source", images, "--jsonl", "a.jsonl", option, url)
    assert problem in message
    assert "passw0rd" not in message


def test_a_missing_package_is_named(
    refused: Callable[..., str], images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "paho.mqtt.client", None)
    message = refused(
        "run", "missing.idol", "--source", images, "--jsonl", "a.jsonl", "--mqtt", "mqtt://host/a"
    )
    assert (
        "--mqtt needs paho-mqtt, which is not installed; install it with: pip install 'idol-deploy[mqtt]'"
        in message
    )
