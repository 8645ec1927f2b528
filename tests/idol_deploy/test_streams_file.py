"""The file of `run --streams`: its fields, its errors, and its changes during a run with cameras on loopback."""

import json
import sys
import threading
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
from idol_runtime.run.options import RunSummary
from idol_runtime.run.run import Run
from idol_runtime.sinks.jsonl import JsonlSink
from idol_runtime.streams import Streams
from samples.events import check_events
from samples.grey import CONFIG, GreyBackend
from samples.waiting import LIMIT_S, until
from servers.mjpeg import MjpegServer


def read(path: Path, *arguments: object) -> StreamsFile:
    options = build_parser().parse_args(["run", "model.idol", "--streams", str(path), *map(str, arguments)])
    return StreamsFile(path, add_source_options, source_options, options)


def write(path: Path, *streams: dict[str, Any]) -> Path:
    return replace(path, json.dumps({"streams": streams}))


def replace(path: Path, content: str) -> Path:
    """Write the file at once, so that no look at it finds a part."""
    new = path.with_suffix(".new")
    new.write_text(content)
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


class Followed:
    """A run that follows a streams file in a thread.

    Attributes:
        path: the file.
        events: events of the run so far.
        summaries: summaries of the run, once it has ended.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.events, self.summaries = path, list[Event](), list[RunSummary]()
        self.listing = read(path)
        self.run = Run(Streams(GreyBackend(), CONFIG), tell=self.events.append)
        for options in self.listing.load():
            self.run.add(options)
        self.thread = threading.Thread(target=self._follow)
        self.thread.start()

    def _follow(self) -> None:
        with self.listing.watch(self.run, self.events.append):
            self.summaries = self.run.wait(lambda: self.listing.pending)

    def write(self, *streams: dict[str, Any]) -> None:
        write(self.path, *streams)

    def told(self, kind: str, source: str) -> list[Event]:
        """Return the events of this kind and source so far."""
        return [event for event in list(self.events) if (event.kind, event.source) == (kind, source)]

    def until(self, kind: str, source: str, count: int = 1) -> None:
        """Wait until so many events of this kind and source were told."""
        until(lambda: len(self.told(kind, source)) >= count)


@pytest.fixture
def follow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Followed]]:
    """A function that runs and follows a file of these streams until the test ends."""
    monkeypatch.setattr(streams_file, "_POLL_S", 0.02)
    runs: list[Followed] = []

    def start(*streams: dict[str, Any]) -> Followed:
        runs.append(Followed(write(tmp_path / "s.json", *streams)))
        return runs[-1]

    yield start
    for one in runs:
        one.run.stop()
        one.thread.join(LIMIT_S)
        assert not one.thread.is_alive()


@pytest.fixture
def entry(tmp_path: Path) -> Iterator[Callable[..., dict[str, Any]]]:
    """A function that returns the stream `door` or `yard` of a camera with this output and these fields."""
    with MjpegServer((32, 64), 100) as door, MjpegServer((32, 64), 100) as yard:
        sources = {"door": door.url, "yard": yard.url}

        def make(name: str, output: str = "", **fields: object) -> dict[str, Any]:
            return {
                "name": name,
                "source": sources[name],
                "jsonl": str(tmp_path / (output or name)),
                **fields,
            }

        yield make


def test_changes_are_followed_and_other_streams_are_not_touched(
    follow: Callable[..., Followed], entry: Callable[..., dict[str, Any]]
) -> None:
    run = follow(entry("door"))
    run.until("connected", "door")
    run.write(entry("door"), entry("yard"))
    run.until("connected", "yard")
    replace(run.path, '{"streams": [')
    run.until("refused", "s.json")
    assert not run.told("accepted", "s.json")
    run.write(entry("door"), entry("yard", score=0.5), {"name": "gone", "source": "g.mp4", "jsonl": "g"})
    run.until("refused", "gone")
    run.until("connected", "yard", 2)
    run.write(entry("yard", score=0.5))
    run.until("removed", "door")
    run.write()
    run.until("removed", "yard", 2)
    run.write(entry("door", queue="block", max_frames=5))  # an empty list waits for a source
    run.thread.join(LIMIT_S)
    assert [summary.source for summary in run.summaries] == ["door", "yard", "yard", "door"]
    assert run.summaries[-1].frames == 5
    (refused,) = run.told("refused", "s.json")  # a broken file is told once
    assert refused.message.startswith("Input data was truncated"), "the file is named once"
    assert len(run.told("accepted", "s.json")) == 1, "its return is told"
    assert {"refused", "accepted"} <= check_events(run.events)
    assert "g.mp4 does not exist; check the path" in run.told("refused", "gone")[0].message
    assert (len(run.told("added", "yard")), len(run.told("added", "door"))) == (2, 1)
    assert not run.run.interrupted


def test_a_renamed_stream_keeps_its_output(
    follow: Callable[..., Followed], entry: Callable[..., dict[str, Any]]
) -> None:
    run = follow(entry("door"))
    run.until("connected", "door")
    run.write(entry("door") | {"name": "gate"})
    until(lambda: run.told("connected", "gate") or run.told("refused", "gate"))
    assert not run.told("refused", "gate")


def test_the_last_of_many_changes_counts_while_an_output_is_being_closed(
    follow: Callable[..., Followed],
    entry: Callable[..., dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    closing = threading.Event()
    close = JsonlSink.close

    def hang(self: JsonlSink) -> None:
        closing.wait(LIMIT_S)
        close(self)

    monkeypatch.setattr(JsonlSink, "close", hang)
    run = follow(entry("door", score=0))
    run.until("connected", "door")
    listed = run.listing
    for i in range(1, 6):
        run.write(entry("door", score=i / 10))
        until(lambda: [options.score for options in listed._streams.values()] == [i / 10])  # noqa: B023
    run.write()
    until(lambda: not listed._streams)
    closing.set()
    until(lambda: not listed._changing)
    until(lambda: not run.run._runners)
    assert [event for event in run.events if event.kind == "refused"] == []
    run.write(entry("door", score=0.6))
    until(lambda: [runner.options.score for runner in list(run.run._runners.values())] == [0.6])


def test_a_change_that_cannot_be_used_ends_no_stream(
    tmp_path: Path, follow: Callable[..., Followed], entry: Callable[..., dict[str, Any]]
) -> None:
    door, yard, state = entry("door"), entry("yard"), str(tmp_path / "state")
    run = follow(door, yard | {"state": state})
    run.until("connected", "door")
    run.until("connected", "yard")
    until(Path(state).exists)
    # Another stream has this output, or its folder does not exist.
    run.write(door, entry("yard", "door"))
    run.until("refused", "s.json")
    run.write(door, entry("yard", "missing/y"))
    run.until("refused", "s.json", 2)
    assert not run.told("removed", "yard")
    # The state belongs to another source: this is known only after the stream before has ended.
    run.write(door, yard | {"state": state, "stride": 2})
    run.until("connected", "yard", 2)
    # Two streams exchange their outputs.
    run.write(entry("door", "yard"), entry("yard", "door"))
    run.until("connected", "door", 2)
    run.until("connected", "yard", 3)
    first, second = (event.message for event in run.told("refused", "s.json"))
    assert "two outputs have the same name" in first
    assert "does not exist; create it first; the streams before this change go on" in second
    (refused,) = run.told("refused", "yard")
    assert "with --stride 1, not to" in refused.message
    assert refused.message.endswith("the stream before this change goes on")
