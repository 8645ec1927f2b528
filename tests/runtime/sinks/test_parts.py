"""Series of output files: names, rotation, retention, restarts and kills, with a clock that jumps."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from idol_runtime.errors import OutputError
from idol_runtime.events import Event
from idol_runtime.files import lock
from idol_runtime.sinks import series
from idol_runtime.sinks.base import Sink
from idol_runtime.sinks.jsonl import JsonlSink
from idol_runtime.sinks.masks import MaskSink
from idol_runtime.sinks.policy import FilePolicy
from idol_runtime.sinks.series import part_size
from idol_runtime.sinks.video import VideoSink
from samples.results import context, frame, nothing, result

NAME = re.compile(r"out-\d{8}T\d{6}Z(-\d+)?(\.\w+)?")
av = pytest.importorskip("av")
pytest.importorskip("cv2")

KINDS = [
    pytest.param(JsonlSink, "out.jsonl", id="jsonl"),
    pytest.param(VideoSink, "out.mkv", id="video"),
    pytest.param(MaskSink, "out", id="masks"),
]


class Clock:
    """A clock in the place of the system's."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.monotonic, self.wall = 1000.0, time.time()
        monkeypatch.setattr("time.monotonic", lambda: self.monotonic)
        clock = self

        class Now(datetime):
            @classmethod
            def now(cls, tz: Any = None) -> datetime:  # type: ignore[override]
                return datetime.fromtimestamp(clock.wall, tz)

        monkeypatch.setattr(series, "datetime", Now)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def names(folder: Path) -> list[str]:
    return sorted((path.name for path in folder.iterdir()), key=lambda name: (len(name), name))


def lines(folder: Path) -> list[list[int]]:
    """Return the frame indices of every file, in the order of the names."""
    return [
        [json.loads(line)["frame"] for line in (folder / name).read_text().splitlines()]
        for name in names(folder)
    ]


@pytest.mark.parametrize(("kind", "name"), KINDS)
def test_every_part_is_whole_after_a_rotation(
    tmp_path: Path, clock: Clock, kind: type[Sink], name: str
) -> None:
    events: list[Event] = []
    policy = FilePolicy.parse(rotate="10s")
    with kind(tmp_path / name, context(files=policy, tell=events.append)) as sink:
        for i in range(40):  # one frame per second
            sink.write(frame(i), result())  # type: ignore[arg-type]
            clock.monotonic += 1
            clock.wall += 1
        sink.rotate()
        sink.write(frame(40), result())  # type: ignore[arg-type]
    assert len(names(tmp_path)) == 5
    assert all(NAME.fullmatch(part) for part in names(tmp_path))
    assert [event.kind for event in events] == ["rotated"] * 4
    assert sink.note.endswith(f"{tmp_path / name} has 5 parts, the last one is {sink.path.name}")  # type: ignore[union-attr]
    if kind is JsonlSink:
        assert lines(tmp_path) == [*([*range(t, t + 10)] for t in range(0, 40, 10)), [40]]
    elif kind is MaskSink:
        assert [len(list(part.iterdir())) for part in sorted(tmp_path.iterdir())] == [10, 10, 10, 10, 1]


def test_a_clock_that_jumps_back_overwrites_nothing(tmp_path: Path, clock: Clock) -> None:
    with JsonlSink(tmp_path / "out.jsonl", context(files=FilePolicy.parse(rotate="10s"))) as sink:
        for i in range(12):
            sink.write(frame(i), result())
            clock.monotonic += 5
            clock.wall += 5 if i % 4 else -15  # the same second comes back again and again
    assert sorted(index for part in lines(tmp_path) for index in part) == list(range(12))
    assert len(names(tmp_path)) == 6


def test_parts_are_limited_by_size(tmp_path: Path) -> None:
    with JsonlSink(tmp_path / "out.jsonl", context(files=FilePolicy.parse(rotate="2kB"))) as sink:
        for i in range(30):
            sink.write(frame(i), result())
    sizes = [path.stat().st_size for path in tmp_path.iterdir()]
    assert len(sizes) > 3
    assert max(sizes) < 2000 + 500


def test_the_oldest_parts_are_deleted_by_size(tmp_path: Path, clock: Clock) -> None:
    events: list[Event] = []
    policy = FilePolicy.parse(rotate="2kB", retain="6kB")
    mine = tmp_path / "out-notes.jsonl"
    mine.write_text("x" * 9000)
    with JsonlSink(tmp_path / "out.jsonl", context(files=policy, tell=events.append)) as sink:
        for i in range(200):
            sink.write(frame(i), result())
            clock.wall += 1
            total = sum(path.stat().st_size for path in tmp_path.iterdir()) - 9000
            assert total <= 6000
    assert mine.exists()
    evicted = sum(event.values["parts"] for event in events if event.kind == "evicted")  # type: ignore[misc]
    rotated = sum(event.kind == "rotated" for event in events)
    assert evicted == rotated + 1 - (len(names(tmp_path)) - 1) > 10
    assert f"parts of {tmp_path / 'out.jsonl'} deleted by --retain: {evicted}" in sink.note
    mine.unlink()
    assert [index for part in lines(tmp_path) for index in part][-1] == 199


@pytest.mark.parametrize(("kind", "name"), KINDS)
def test_the_oldest_parts_are_deleted_by_age(
    tmp_path: Path, clock: Clock, kind: type[Sink], name: str
) -> None:
    """Parts of earlier runs have the age of their last change; a jump of the clock deletes nothing."""
    policy = FilePolicy.parse(rotate="10s", retain="60s")
    stem, suffix = Path(name).stem, Path(name).suffix
    for age in (50, 500):
        part = tmp_path / f"{stem}-2026010{age // 100}T000000Z{suffix}"
        inside = part if suffix else part / "000000.png"
        inside.parent.mkdir(exist_ok=True)
        inside.write_bytes(b"x")
        os.utime(part, (clock.wall - age, clock.wall - age))
    with kind(tmp_path / name, context(files=policy)) as sink:
        for i in range(9):
            sink.write(frame(i), result())  # type: ignore[arg-type]
        assert len(names(tmp_path)) == 2
        clock.wall += 10 * 365 * 86400
        for i in range(9, 100):
            clock.monotonic += 5
            sink.write(frame(i), result())  # type: ignore[arg-type]
        assert len(names(tmp_path)) == 7  # one that is written, and six that ended in the last minute


@pytest.mark.parametrize(("kind", "name"), KINDS)
def test_old_parts_are_deleted_also_on_a_full_disk_and_without_frames(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch, kind: type[Sink], name: str
) -> None:
    """Otherwise, a disk that is full before the first part is old enough would stay full."""
    facts = context(live=True, files=FilePolicy.parse("10s", "60s"))
    with kind(tmp_path / name, facts) as sink:
        for i in range(10):
            sink.write(frame(i), result())  # type: ignore[arg-type]
            clock.monotonic += 10
            clock.wall += 10
        assert len(names(tmp_path)) == 8
        with monkeypatch.context() as patch:
            patch.setattr(kind, "_append", lambda *_: Path("/dev/full").write_bytes(b"x"))
            for i in range(10, 20):
                sink.write(frame(i), result())  # type: ignore[arg-type]
                clock.monotonic += 10
                clock.wall += 10
        assert names(tmp_path) == []
        sink.write(frame(20), result())  # type: ignore[arg-type]
        assert len(names(tmp_path)) == 1
        assert sink.frames_lost == 10
        sink.end_part()
        clock.monotonic += 61
        sink.end_part()
        assert names(tmp_path) == [], "no frame comes"


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        ({"live": True}, {"out.jsonl": 3, "out.mkv": 1, "out-*.mkv": 2, "out/*.png": 1, "out-*/*.png": 2}),
        ({"append": True}, {"out.jsonl": 3, "out.mkv": 1, "out-*.mkv": 2, "out/*.png": 3}),
        (
            {},
            {
                "out.jsonl": 1,
                "out.mkv": 1,
                "out-*.mkv": 0,
                "out/*.png": 1,
                "out-2/*.png": 1,
                "out-3/*.png": 1,
            },
        ),
    ],
)
def test_restarts(tmp_path: Path, facts: dict[str, Any], expected: dict[str, int]) -> None:
    """A live source and a continued one never replace what an earlier run has written."""
    for run in range(3):
        for kind, name in ((JsonlSink, "out.jsonl"), (VideoSink, "out.mkv"), (MaskSink, "out")):
            with kind(tmp_path / name, context(**facts)) as sink:  # type: ignore[arg-type]
                sink.write(frame(run if "append" in facts else 0), nothing())  # type: ignore[arg-type]
    found = {pattern: len(list(tmp_path.glob(pattern))) for pattern in expected}
    found["out.jsonl"] = len((tmp_path / "out.jsonl").read_text().splitlines())
    assert found == expected


# Writes one file of each kind in steps of a frame, 30 per second of the video, and reports each frame.
PROGRAM = """
import sys
from dataclasses import replace
from pathlib import Path
from idol_runtime.sinks.jsonl import JsonlSink
from idol_runtime.sinks.video import VideoSink
from samples.results import context, frame, result
folder, live = Path(sys.argv[1]), bool(int(sys.argv[2]))
kinds = {"out.jsonl": JsonlSink, "out.mp4": VideoSink, "out.mkv": VideoSink}
sinks = [kind(folder / name, context(live=live)) for name, kind in kinds.items()]
for i in range(10**6):
    for sink in sinks:
        sink.write(replace(frame(i), time_s=i / 30), result())
    print(i, flush=True)
"""


@pytest.mark.parametrize("live", [False, True])
def test_a_killed_run_loses_less_than_a_second(tmp_path: Path, live: bool) -> None:
    (tmp_path / "out.jsonl").write_text('{"frame": 0, "time_s": 0.0}\n{"frame"')
    command = [sys.executable, "-c", PROGRAM, tmp_path, str(int(live))]
    tests = Path(__file__).parents[2]
    with subprocess.Popen(command, cwd=tests, stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout is not None
        last = next(int(line) for line in run.stdout if int(line) >= 100)
        run.send_signal(signal.SIGKILL)
        last = max([last, *map(int, run.stdout.read().split())])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.jsonl", "out.mkv", "out.mp4"]
    text = (tmp_path / "out.jsonl").read_text()
    frames = [json.loads(line)["frame"] for line in text[: text.rindex("\n")].splitlines()]
    assert frames[0 if not live else 1 :][: last + 1] == list(range(last + 1))
    for name in ("out.mp4", "out.mkv"):
        with av.open(tmp_path / name) as container:
            times = [picture.time for picture in container.decode(video=0)]
        assert times == pytest.approx([i / 30 for i in range(len(times))], abs=2e-3)
        assert times[-1] >= last / 30 - 1


@pytest.mark.parametrize(("kind", "name"), KINDS[:2])
@pytest.mark.parametrize("rotate", [None, "1h"])
def test_a_second_run_does_not_write_the_same_file(
    tmp_path: Path, kind: type[Sink], name: str, rotate: str | None
) -> None:
    facts = context(live=True, files=FilePolicy.parse(rotate=rotate))
    with kind(tmp_path / name, facts) as early, kind(tmp_path / name, facts) as sink:
        sink.write(frame(0), result())  # type: ignore[arg-type]
        with pytest.raises(OutputError, match="another run writes it; end that run, or give another name"):
            kind(tmp_path / name, facts)
        early.write(frame(0), result())  # type: ignore[arg-type]
        sink.write(frame(1), result())  # type: ignore[arg-type]
    (path,) = tmp_path.glob("*") if kind is JsonlSink and not rotate else [sink.path]
    if kind is JsonlSink:
        assert [json.loads(line)["frame"] for line in path.read_text().splitlines()] == [0, 1]
    kind(tmp_path / name, facts).close()


@pytest.mark.parametrize(("kind", "name"), KINDS)
def test_a_part_that_ends_without_a_frame_is_complete(tmp_path: Path, kind: type[Sink], name: str) -> None:
    facts = context(live=True, files=FilePolicy.parse("1h"))
    with kind(tmp_path / name, facts) as sink:
        sink.end_part()
        sink.write(frame(0), result())  # type: ignore[arg-type]
        sink.end_part()
        (path,) = tmp_path.iterdir()
        if kind is not MaskSink:
            with path.open("rb") as file:
                lock(file.fileno(), path)
        before = part_size(path)
        sink.write(frame(1), result())  # type: ignore[arg-type]
        assert part_size(path) == before
    assert len(names(tmp_path)) == 2


@pytest.mark.parametrize(("kind", "name"), KINDS)
def test_links_and_things_of_another_kind_are_no_parts(tmp_path: Path, kind: type[Sink], name: str) -> None:
    suffix, stamp = Path(name).suffix, "20201128T10311"
    user = tmp_path / "user"
    user.mkdir()
    (user / "mine.png").touch()
    (tmp_path / f"out-{stamp}1Z{suffix}").symlink_to(user)
    (tmp_path / f"out-{stamp}2Z{suffix}").symlink_to(tmp_path / "nothing")
    other = tmp_path / f"out-{stamp}3Z{suffix}"
    if kind is MaskSink:
        other.write_text("mine")
    else:
        other.mkdir()
        (other / "mine.png").touch()
    for path in (user, other):
        os.utime(path, (1, 1))
    before = names(tmp_path)
    for live in (False, True):
        with kind(
            tmp_path / name, context(live=live, files=FilePolicy.parse(rotate="1s", retain="10s"))
        ) as sink:
            sink.write(frame(0), result())  # type: ignore[arg-type]
    assert set(before) < set(names(tmp_path))
    assert (user / "mine.png").exists()
    assert kind is MaskSink or (other / "mine.png").exists()


def test_restarts_do_not_lengthen_a_part(tmp_path: Path, clock: Clock) -> None:
    """A camera that is switched off every half hour has parts of an hour, too."""
    facts = context(live=True, files=FilePolicy.parse(rotate="1h"))
    for start in range(0, 20, 2):
        with JsonlSink(tmp_path / "out.jsonl", facts) as sink:
            for i in (start, start + 1):
                sink.write(frame(i), result())
                clock.monotonic += 900
                clock.wall += 900
    assert [len(part) for part in lines(tmp_path)][-2:] == [4, 3]
    clock.wall -= 86400 * 365
    with JsonlSink(tmp_path / "out.jsonl", facts) as sink:
        sink.write(frame(20), result())
        sink.write(frame(21), result())
    assert [len(part) for part in lines(tmp_path)][-1] == 5, "the clock was set back"


@pytest.mark.parametrize(("kind", "name"), KINDS)
def test_files_of_the_user_in_the_place_of_a_part_are_not_deleted(
    tmp_path: Path, clock: Clock, kind: type[Sink], name: str
) -> None:
    """For example, a part was moved to another disk, and a link to it is in its place."""
    archive = tmp_path / "archive"
    archive.mkdir()

    def write(frames: range) -> list[Path]:
        for i in frames:
            sink.write(frame(i), result())  # type: ignore[arg-type]
            clock.monotonic += 1
            clock.wall += 1
        return sorted(path for path in tmp_path.iterdir() if path != archive)

    facts = context(live=True, files=FilePolicy.parse(rotate="1s", retain="10s,1GB"))
    with kind(tmp_path / name, facts) as sink:
        linked, replaced, extended, *_ = write(range(5))
        for moved in (linked, replaced):
            moved.rename(archive / moved.name)
        linked.symlink_to(archive / linked.name)
        if kind is MaskSink:
            replaced.write_text("mine")
            (extended / "mine.png").touch()
            (extended / ".000002-0123abcd.png").touch()  # of a killed run
            for loop in ("loop", "other"):
                (extended / loop).symlink_to(extended)
        else:
            replaced.mkdir()
            (replaced / "mine.png").touch()
        content = sorted(archive.rglob("*.*"))
        write(range(5, 30))
    with kind(tmp_path / name, facts) as sink:
        write(range(30, 40))
    assert sorted(archive.rglob("*.*")) == content
    assert linked.is_symlink()
    if kind is MaskSink:
        assert replaced.exists()
        assert sorted(path.name for path in extended.iterdir()) == ["loop", "mine.png", "other"]
    else:
        assert (replaced / "mine.png").exists()
        assert not extended.exists()


def test_a_name_without_room_for_the_time_is_refused_at_the_start(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="File name too long; choose another place"):
        JsonlSink(tmp_path / f"{240 * 'n'}.jsonl", context(files=FilePolicy.parse(rotate="1h")))
