"""The file of `run --streams`: its fields, its errors, and its changes during a run with cameras on loopback."""

import json
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from idol_deploy import streams_file
from idol_deploy.cli import build_parser
from idol_deploy.commands.source_options import add_source_options, source_options
from idol_deploy.streams_file import StreamsFile
from idol_runtime.errors import ConfigError
from idol_runtime.events import Event
from idol_runtime.run.run import Run
from idol_runtime.sinks.jsonl import JsonlSink
from idol_runtime.streams import Streams
from samples.events import check_events
from samples.grey import CONFIG, GreyBackend
from servers.mjpeg import MjpegServer


def read(path: Path, *arguments: object) -> StreamsFile:
    options = build_parser().parse_args(["run", "model.idol", "--streams", str(path), *map(str, arguments)])
    return StreamsFile(path, add_source_options, source_options, options)


def write(path: Path, *streams: dict[str, Any]) -> Path:
    new = path.with_suffix(".new")
    new.write_text(json.dumps({"streams": streams}))
    return new.replace(path)


@pytest.mark.skipif(sys.version_info < (3, 11), reason="TOML needs Python 3.11")
def test_fields_are_options_and_the_command_line_has_their_defaults(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    entries = [
        {"name": "front door", "source": "rtsp://door/live", "queue": 200, "max_frames": 7, "boxes": True},
        {"name": "yard", "source": 0, "save": "y.mp4", "score": 0.5, "rotate": "1h", "boxes": False},
    ]
    toml = tmp_path / "s.toml"
    toml.write_text(
        "\n".join(
            "[[streams]]\n" + "\n".join(f"{key} = {json.dumps(value)}" for key, value in entry.items())
            for entry in entries
        )
    )
    arguments = "--jsonl", "{source}.jsonl", "--score", 0.2, "--boxes"
    door, yard = loaded = read(toml, *arguments).load()
    assert (door.name, door.source, door.queue, door.max_frames) == ("front door", "rtsp://door/live", 200, 7)
    assert (door.score, door.boxes, door.paths) == (0.2, True, (Path("front_door.jsonl"),))
    assert (yard.source, yard.score, yard.boxes, yard.queue) == (0, 0.5, False, None)
    assert yard.paths == (Path("y.mp4"), Path("yard.jsonl"))
    assert yard.files.rotate.seconds == 3600
    assert read(write(tmp_path / "s.json", *entries), *arguments).load() == loaded


@pytest.mark.parametrize(
    ("entry", "problem"),
    [
        ({"name": "a"}, "stream a: the source is missing; give a path, a URL or a camera"),
        ({"source": "x"}, "stream 2: the name is missing; give every stream one"),
        ({"name": "first", "source": "x"}, "stream first: another stream has this name"),
        (
            {"name": "a", "source": "x", "quue": "latest"},
            "stream a: unknown field: quue; use name, source, save,",
        ),
        ({"name": "a", "source": "x", "streams": "s"}, "unknown field: streams"),
        (
            {"name": "a", "source": "x", "queue": "now"},
            "queue: 'now' is no policy; use block, latest or milli",
        ),
        (
            {"name": "a", "source": "x", "queue": -1},
            "stream a: --queue must be more than 0 milliseconds, got -1",
        ),
        ({"name": "a", "source": "x", "stride": 0}, "stride: '0' is not a positive whole number"),
        ({"name": "a", "source": "x", "boxes": "yes"}, "boxes must be true or false, got 'yes'"),
        ({"name": "a", "source": "x", "jsonl": "{number}"}, "write {source} for the name"),
        ({"name": "a", "source": ["x"]}, "; list streams with a name and a source each"),
    ],
)
def test_what_is_refused(tmp_path: Path, entry: dict[str, Any], problem: str) -> None:
    path = write(tmp_path / "s.json", {"name": "first", "source": "y", "jsonl": "z"}, entry)
    with pytest.raises(ConfigError) as caught:
        read(path, "--save", "{source}.mp4").load()
    assert str(caught.value).startswith(f"{path}: ")
    assert problem in str(caught.value)


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b'{"stream": []}', b"\xff", b" " * (2**20 + 1), b"a=" + b"[" * 9999, b"[" * 9999],
)
@pytest.mark.parametrize("name", ["s.json", "s.toml"])
def test_a_file_that_is_no_list_of_streams(tmp_path: Path, name: str, content: bytes) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"s\.(json|toml)"):
        read(path).load()
    with pytest.raises(ConfigError, match=r"No such file or directory; create it with: echo"):
        read(tmp_path / "gone.json").load()


@pytest.fixture
def until() -> Callable[[Callable[[], object]], None]:
    def wait(condition: Callable[[], object]) -> None:
        deadline = time.monotonic() + 20
        while not condition():
            assert time.monotonic() < deadline
            time.sleep(0.01)

    return wait


class Events(list[Event]):
    """The events of a run."""

    def told(self, kind: str, source: str) -> list[Event]:
        """Return the events of this kind and source so far."""
        return [event for event in list(self) if (event.kind, event.source) == (kind, source)]


@pytest.fixture
def cameras() -> Iterator[dict[str, str]]:
    """Addresses of two cameras."""
    with MjpegServer((32, 64), 100) as door, MjpegServer((32, 64), 100) as yard:
        yield {"door": door.url, "yard": yard.url}


def test_changes_are_followed_and_other_streams_are_not_touched(
    tmp_path: Path,
    cameras: dict[str, str],
    until: Callable[[Callable[[], object]], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(streams_file, "_POLL_S", 0.02)
    events = Events()
    told = events.told

    def entry(name: str, **fields: object) -> dict[str, Any]:
        return {"name": name, "source": cameras[name], "jsonl": str(tmp_path / f"{name}.jsonl"), **fields}

    path = write(tmp_path / "s.json", entry("door"))
    listing = read(path)
    with Run(Streams(GreyBackend(), CONFIG), tell=events.append) as run:
        for options in listing.load():
            run.add(options)
        done: list[Any] = []

        def process() -> None:
            with listing.watch(run, events.append):
                done.extend(run.wait(lambda: listing.pending))

        thread = threading.Thread(target=process)
        thread.start()
        until(lambda: told("connected", "door"))
        write(path, entry("door"), entry("yard"))
        until(lambda: told("connected", "yard"))
        path.write_text('{"streams": [')
        until(lambda: told("refused", "s.json"))
        assert not told("accepted", "s.json")
        write(
            path, entry("door"), entry("yard", score=0.5), {"name": "gone", "source": "g.mp4", "jsonl": "g"}
        )
        until(lambda: told("refused", "gone"))
        until(lambda: len(told("connected", "yard")) == 2)
        write(path, entry("yard", score=0.5))
        until(lambda: told("removed", "door"))
        write(path)
        until(lambda: len(told("removed", "yard")) == 2)
        time.sleep(0.3)
        assert thread.is_alive(), "an empty list waits for a source"
        write(path, entry("door", queue="block", max_frames=5))
        thread.join(20)
    assert not thread.is_alive()
    assert [summary.source for summary in done] == ["door", "yard", "yard", "door"]
    assert done[-1].frames == 5
    (refused,) = told("refused", "s.json")  # a broken file is told once
    assert refused.message.startswith("Input data was truncated"), "the file is named once"
    assert len(told("accepted", "s.json")) == 1, "its return is told"
    assert {"refused", "accepted"} <= check_events(events)
    assert "g.mp4 does not exist; check the path" in told("refused", "gone")[0].message
    assert (len(told("added", "yard")), len(told("added", "door"))) == (2, 1)
    assert not run.interrupted


@pytest.fixture
def follow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[StreamsFile, Run, list[Event]], None]]:
    """A function that runs the streams of a file in a thread until the test ends."""
    monkeypatch.setattr(streams_file, "_POLL_S", 0.02)
    threads: list[tuple[Run, threading.Thread]] = []

    def start(listing: StreamsFile, run: Run, events: list[Event]) -> None:
        for options in listing.load():
            run.add(options)

        def process() -> None:
            with listing.watch(run, events.append):
                run.wait(lambda: listing.pending)

        threads.append((run, threading.Thread(target=process)))
        threads[-1][1].start()

    yield start
    for run, thread in threads:
        run.stop()
        thread.join(20)
        assert not thread.is_alive()


def test_a_renamed_stream_keeps_its_output(
    tmp_path: Path,
    cameras: dict[str, str],
    until: Callable[[Callable[[], object]], None],
    follow: Callable[[StreamsFile, Run, list[Event]], None],
) -> None:
    events = Events()
    told = events.told

    fields = {"source": cameras["door"], "jsonl": str(tmp_path / "door.jsonl")}
    path = write(tmp_path / "s.json", {"name": "door", **fields})
    run = Run(Streams(GreyBackend(), CONFIG), tell=events.append)
    follow(read(path), run, events)
    until(lambda: told("connected", "door"))
    write(path, {"name": "gate", **fields})
    until(lambda: told("connected", "gate") or told("refused", "gate"))
    assert not told("refused", "gate")


def test_the_last_of_many_changes_counts_while_an_output_is_being_closed(
    tmp_path: Path,
    cameras: dict[str, str],
    until: Callable[[Callable[[], object]], None],
    follow: Callable[[StreamsFile, Run, list[Event]], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    events: list[Event] = []
    closing = threading.Event()
    close = JsonlSink.close

    def hang(self: JsonlSink) -> None:
        closing.wait(20)
        close(self)

    monkeypatch.setattr(JsonlSink, "close", hang)

    def door(score: float) -> dict[str, Any]:
        return {"name": "door", "source": cameras["door"], "jsonl": str(tmp_path / "d"), "score": score}

    path = write(tmp_path / "s.json", door(0))
    run = Run(Streams(GreyBackend(), CONFIG), tell=events.append)
    listing = read(path)
    follow(listing, run, events)
    until(lambda: any(event.kind == "connected" for event in list(events)))
    for i in range(1, 6):
        write(path, door(i / 10))
        until(lambda: [options.score for options in listing._streams.values()] == [i / 10])  # noqa: B023
    write(path)
    until(lambda: not listing._streams)
    closing.set()
    until(lambda: not listing._changing)
    until(lambda: not run._runners)
    assert [event for event in events if event.kind == "refused"] == []
    write(path, door(0.6))
    until(lambda: [runner.options.score for runner in list(run._runners.values())] == [0.6])


def test_a_change_that_cannot_be_used_ends_no_stream(
    tmp_path: Path,
    cameras: dict[str, str],
    until: Callable[[Callable[[], object]], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(streams_file, "_POLL_S", 0.02)
    events = Events()
    told = events.told

    def entry(name: str, output: str, **fields: object) -> dict[str, Any]:
        return {"name": name, "source": cameras[name], "jsonl": str(tmp_path / output), **fields}

    door, yard, state = entry("door", "d"), entry("yard", "y"), str(tmp_path / "state")
    path = write(tmp_path / "s.json", door, yard | {"state": state})
    listing = read(path)
    with Run(Streams(GreyBackend(), CONFIG), tell=events.append) as run:
        for options in listing.load():
            run.add(options)

        def process() -> None:
            with listing.watch(run, events.append):
                run.wait(lambda: listing.pending)

        thread = threading.Thread(target=process)
        thread.start()
        until(lambda: told("connected", "door") and told("connected", "yard") and Path(state).exists())
        # Another stream has this output, or its folder does not exist.
        write(path, door, entry("yard", "d"))
        until(lambda: len(told("refused", "s.json")) == 1)
        write(path, door, entry("yard", "missing/y"))
        until(lambda: len(told("refused", "s.json")) == 2)
        assert not told("removed", "yard")
        # The state belongs to another source: this is known only after the stream before has ended.
        write(path, door, yard | {"state": state, "stride": 2})
        until(lambda: len(told("connected", "yard")) == 2)
        # Two streams exchange their outputs.
        write(path, entry("door", "y"), entry("yard", "d"))
        until(lambda: len(told("connected", "door")) == 2 and len(told("connected", "yard")) == 3)
        run.stop()
        thread.join(20)
    assert not thread.is_alive()
    first, second = (event.message for event in told("refused", "s.json"))
    assert "two outputs have the same name" in first
    assert "does not exist; create it first; the streams before this change go on" in second
    (refused,) = told("refused", "yard")
    assert "with --stride 1, not to" in refused.message
    assert refused.message.endswith("the stream before this change goes on")
