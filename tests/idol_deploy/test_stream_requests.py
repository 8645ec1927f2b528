"""Streams that come over HTTP: what they may read and write, and their way into the streams file."""

import json
import os
import re
import stat
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from idol_deploy import streams_file
from idol_deploy.cli import build_parser
from idol_deploy.commands.source_options import add_source_options, source_options
from idol_deploy.stream_requests import RequestError, StreamRequests
from idol_deploy.streams_file import StreamsFile
from idol_runtime.errors import ConfigError, IdolError
from idol_runtime.events import Event
from idol_runtime.run.run import Run
from idol_runtime.serve.messages import Edit, Reply
from idol_runtime.sources.gstreamer import PipelineReader
from idol_runtime.sources.opening import reader_kind, source_paths
from idol_runtime.streams import Streams
from samples.grey import CONFIG, GreyBackend
from samples.waiting import LIMIT_S, until


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of media and one of data, each with links that lead out, and secrets beside them."""
    for name in ("media/day", "data/sub", "secret"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "media" / "day" / "a b.mp4").write_bytes(b"video")
    (tmp_path / "secret" / "key").write_bytes(b"key")
    (tmp_path / "media" / "again.mp4").symlink_to(tmp_path / "media" / "day" / "a b.mp4")
    for place in ("media", "data"):
        (tmp_path / place / "link").symlink_to(tmp_path / "secret" / "key")
        (tmp_path / place / "out").symlink_to(tmp_path / "secret")
    (tmp_path / "media" / "circle").symlink_to(tmp_path / "media" / "circle")
    return tmp_path


@pytest.fixture
def requests(folder: Path) -> StreamRequests:
    return StreamRequests([folder / "media"], folder / "data")


def fields(**values: object) -> dict[str, Any]:
    return {"name": "door", "source": "rtsp://door/live", **values}


@pytest.mark.parametrize(
    "source",
    [
        "rtsp://me:secret@door:554/live?a=1",
        "RTSPS://door/live",
        "http://[::1]:80/x",
        "https://door/x.mp4",
        0,
        "3",
        "/dev/video2",
    ],
)
def test_sources_that_are_allowed(requests: StreamRequests, source: object) -> None:
    assert requests.checked(fields(source=source)) == ("door", {"source": source})


def test_files_of_the_media_folders_are_listed_with_their_real_paths(
    requests: StreamRequests, folder: Path
) -> None:
    real = str(folder / "media" / "day" / "a b.mp4")
    for source in ("day/a b.mp4", real, "again.mp4", "day/./a b.mp4"):
        assert requests.checked(fields(source=source))[1]["source"] == real


@pytest.mark.parametrize(
    "source",
    [
        *("link", "out/key", "day/../../secret/key", "../secret/key", "/etc/passwd", "day", "day/*.mp4", "", "."),
        *("circle", "x" * 300, "missing.mp4", "~/x.mp4", "/dev/stdin", "/dev/video0/../null", "-", "/dev/sda"),
        *("gst:videotestsrc ! appsink", "csi:0", "v4l2:/dev/video0", "videotestsrc ! appsink", "rtsp:/door"),
        *("http://x/ ! filesink location=/tmp/x", "rtsp://x/ ! appsink", "http://x/a b", "gst:http://x"),
        *("file:///etc/passwd", "ftp://x/y", "udp://0.0.0.0:1", "srt://x", "rtmp://x/y", "concat:http://x", "data:,"),
        *("http://", "http:///x", "http://[::1", "rtsp://?x", "subfile,,:http://x/y", "http://x/\n", "http://x/\0"),
        *("pipe:0", "tcp://x", "http\u3000://x", 100, -1, True, 0.5, "x" * 5000, "http://x/\u202e"),
    ],
)  # fmt: skip
def test_sources_that_are_refused(requests: StreamRequests, source: object) -> None:
    with pytest.raises(RequestError) as caught:
        requests.checked(fields(source=source))
    assert caught.value.status == 422
    assert "secret@" not in str(caught.value)


@pytest.mark.parametrize("output", ["save", "jsonl", "masks", "state"])
@pytest.mark.parametrize(
    "name",
    [
        *("/tmp/x", "../x", "sub/../../x", "link", "out/x", "", ".", "sub/..", "{source}.mp4", "a\\b", "x\n", "x\0"),
        *(7, True),
    ],
)  # fmt: skip
def test_outputs_outside_the_data_folder_are_refused(
    requests: StreamRequests, output: str, name: object
) -> None:
    with pytest.raises(RequestError):
        requests.checked(fields(**{output: name}))


def test_outputs_are_listed_with_their_places(requests: StreamRequests, folder: Path) -> None:
    _, checked = requests.checked(fields(save="sub/a.mp4", state="a.state", boxes=True, queue=200))
    data = folder / "data"
    assert checked["save"] == str(data / "sub" / "a.mp4")
    assert checked["state"] == str(data / "a.state")
    assert (checked["boxes"], checked["queue"]) == (True, 200)
    with pytest.raises(RequestError, match="start serve with --data DIR"):
        StreamRequests().checked(fields(jsonl="a.jsonl"))
    with pytest.raises(RequestError, match="start serve with --media DIR"):
        StreamRequests().checked(fields(source="a.mp4"))


@pytest.mark.parametrize(
    "wrong",
    [
        *({"name": name} for name in ("", "a/b", "..", ".", " a", "a\nb", "a\0", "x" * 101, 7, True)),
        *(
            {field: "x"}
            for field in ("results", "display", "video_id", "set", "bundle", "help", "--jsonl", "")
        ),
        {"rotate": "1h\n"},
        {"queue": "x" * 2001},
    ],
)
def test_other_fields_that_are_refused(requests: StreamRequests, wrong: dict[str, Any]) -> None:
    with pytest.raises(RequestError):
        requests.checked(fields(**wrong))


def test_folders_must_exist(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--media is not a folder: .*gone; create it first"):
        StreamRequests([tmp_path / "gone"])
    with pytest.raises(ConfigError, match="--data is not a folder"):
        StreamRequests(data=tmp_path / "gone")


class Editor:
    """A streams file beside a run without frames."""

    def __init__(self, path: Path, requests: StreamRequests) -> None:
        self.path, self.events = path, list[Event]()
        self.run = Run(Streams(GreyBackend(), CONFIG), tell=self.events.append)
        self._requests = requests
        options = build_parser().parse_args(["serve", "m.idol", "--streams", str(path)])
        self.listing = StreamsFile(path, add_source_options, source_options, options)
        self.listing.load()

    def __call__(self, **change: Any) -> Reply:
        return self.listing.edit(self.run, self.events.append, self._requests, Edit(7, **change))

    def names(self) -> list[str]:
        return [entry["name"] for entry in json.loads(self.path.read_text())["streams"]]


@pytest.fixture
def editor(folder: Path, requests: StreamRequests) -> Editor:
    path = folder / "s.json"
    path.write_text(json.dumps({"streams": [fields(name="first", queue="latest")]}))
    path.chmod(0o600)
    return Editor(path, requests)


def test_a_stream_is_added_to_the_file_and_removed(editor: Editor, folder: Path) -> None:
    assert editor(add=fields(jsonl="a.jsonl", score=0.5)) == Reply(7)
    entry = json.loads(editor.path.read_text())["streams"][1]
    assert entry == fields(jsonl=str(folder / "data" / "a.jsonl"), score=0.5)
    assert stat.S_IMODE(editor.path.stat().st_mode) == 0o600, "it may hold passwords"
    assert editor(remove="first") == Reply(7)
    assert editor.names() == ["door"]
    assert StreamsFile.load(editor.listing)[0].score == 0.5
    assert [path.name for path in folder.iterdir() if path.is_file()] == ["s.json"]


@pytest.mark.parametrize(
    ("change", "status", "problem"),
    [
        ({"remove": "gone"}, 404, "no stream is named 'gone'; give the name of a listed one"),
        ({"add": fields(name="first")}, 409, "another stream is named first; give another name"),
        ({"add": fields(source="gst:x")}, 422, "the source must be a URL"),
        ({"add": fields(score=2)}, 422, "score must lie between 0 and 1, got 2"),
        ({"add": fields(queue="now")}, 422, "queue: 'now' is no policy; use block, latest or milliseconds"),
        ({"add": fields(jsonl="gone/a.jsonl")}, 422, "the folder .*/gone does not exist; create it first"),
        ({"add": fields(save="a.xyz")}, 422, "ends in .mp4 or"),
        ({"add": fields(jsonl="n" * 300)}, 422, "File name too long; choose another place"),
        ({"add": {"source": 0}}, 422, "the name must have 1 to 100 characters"),
        ({"add": {"name": "a"}}, 422, "the source is missing; give a path, a URL or a camera"),
    ],
)
def test_refused_changes_leave_the_file_as_it_is(
    editor: Editor, change: dict[str, Any], status: int, problem: str
) -> None:
    before = editor.path.read_bytes()
    reply = editor(**change)
    assert (reply.id, reply.status) == (7, status)
    assert re.search(problem, reply.error), reply.error
    assert editor.path.read_bytes() == before


def test_the_bundle_the_list_and_other_outputs_are_protected(folder: Path) -> None:
    path = folder / "data" / "s.json"
    path.write_text(json.dumps({"streams": [fields(name="first", jsonl=str(folder / "data" / "a.jsonl"))]}))
    (folder / "data" / "m.idol").write_bytes(b"bundle")
    editor = Editor(path, StreamRequests(data=folder / "data", protected=[folder / "data" / "m.idol"]))
    for target in ("s.json", "m.idol", "a.jsonl"):
        assert editor(add=fields(jsonl=target)).status == 422, target
    assert editor(add=fields(jsonl="b.jsonl")).status == 200


def test_a_file_that_somebody_has_broken_or_filled_is_not_written(editor: Editor) -> None:
    editor.path.write_text("{")
    reply = editor(add=fields())
    assert (reply.status, editor.path.read_text()) == (409, "{")
    assert "the streams file has an error that comes first" in reply.error
    editor.path.write_text(json.dumps({"streams": [fields(name=str(n)) for n in range(64)]}))
    assert editor(add=fields()).error == "64 streams are listed; remove one first"
    assert editor(remove="5").status == 200


def test_a_stream_that_cannot_be_opened_is_not_listed(
    editor: Editor, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next start would end with its error."""
    monkeypatch.setattr(streams_file, "_START_S", LIMIT_S)
    (folder / "media" / "text.mp4").write_text("no video")
    before = editor.path.read_bytes()
    reply = editor(add=fields(source="text.mp4"))
    assert reply.status == 422
    assert "text.mp4 is not a video that FFmpeg can read" in reply.error
    assert json.loads(editor.path.read_bytes()) == json.loads(before)
    assert [(event.kind, event.source) for event in editor.events] == [("refused", "door")]
    assert editor(add=fields()) == Reply(7)


def test_a_stream_that_has_ended_is_removed_with_an_event(editor: Editor, folder: Path) -> None:
    """The run has no such source any more, and viewers must forget it nevertheless."""
    (folder / "clip").mkdir()
    Image.new("RGB", (64, 32)).save(folder / "clip" / "0.png")
    editor.path.write_text(json.dumps({"streams": [fields(name="first", source=str(folder / "clip"))]}))
    with editor.run as run:
        for options in editor.listing.load():
            run.add(options)
        thread = threading.Thread(target=run.wait, args=(lambda: True,))
        thread.start()
        until(lambda: any(event.kind == "ended" for event in editor.events))
        assert editor(remove="first") == Reply(7)
        run.stop()
        thread.join()
    assert [(event.kind, event.source) for event in editor.events] == [
        ("ended", "first"),
        ("removed", "first"),
    ]


_PIECES = st.sampled_from(
    [
        *(
            "..",
            "/",
            "day",
            "a b.mp4",
            "link",
            "out",
            "key",
            "~",
            "http://",
            "rtsp://",
            "me:x@",
            "door",
            ":80",
        ),
        *("gst:", "[", "]", "?", "#", "%2e", "\\", "{source}", "*", "/dev/video", "0", "-1", "é", ".", " ! "),
        *("\0", "\n", "\u2028"),
    ]
)
_TEXTS = st.lists(_PIECES, max_size=6).map("".join) | st.text(max_size=20)
_VALUES = _TEXTS | st.integers() | st.floats(allow_nan=False) | st.booleans()
_NAMES = st.sampled_from(
    ["name", "source", "save", "jsonl", "masks", "state", "queue", "score", "rotate", "results"]
)


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(st.dictionaries(_NAMES | _TEXTS, _VALUES, max_size=5))
def test_no_request_leads_out_of_the_folders(
    folder: Path, requests: StreamRequests, editor: Editor, change: dict[str, Any]
) -> None:
    try:
        name, checked = requests.checked({"name": "a", "source": 0, **change})
        accepted = editor.listing._options(name, dict(checked))
    except IdolError:
        return
    for path in accepted.paths:
        assert path.resolve().is_relative_to(folder / "data")
    for path in source_paths(accepted.source):
        assert path.resolve().is_relative_to(folder / "media")
    assert reader_kind(accepted.source) is not PipelineReader


def test_a_change_by_hand_at_the_same_time_is_kept(editor: Editor, monkeypatch: pytest.MonkeyPatch) -> None:
    by_hand = json.dumps({"streams": [fields(name="by hand")]})
    monkeypatch.setattr(os, "fsync", lambda _: editor.path.write_text(by_hand))
    reply = editor(add=fields())
    assert (reply.status, reply.error) == (
        409,
        "the streams file was changed at the same time; try again",
    )
    monkeypatch.undo()
    assert editor.path.read_text() == by_hand
    assert editor(add=fields()) == Reply(7)
    assert editor.names() == ["by hand", "door"]
    assert [path.name for path in editor.path.parent.iterdir() if path.is_file()] == ["s.json"]


def test_toml_is_not_written(folder: Path) -> None:
    (folder / "s.toml").write_text("")
    options = build_parser().parse_args(["serve", "m.idol", "--streams", "s.toml"])
    assert not StreamsFile(folder / "s.toml", add_source_options, source_options, options).editable
