"""The file of events: whole lines, renamed files, full disks, and the limits of its parts."""

import contextlib
import json
import resource
import signal
from pathlib import Path

import pytest

from idol_runtime.delivery.event_file import EventFile
from idol_runtime.delivery.queue import Delivery, EventQueue
from idol_runtime.errors import OutputError
from idol_runtime.events import Event
from idol_runtime.sinks.policy import FilePolicy
from samples.waiting import until


def append(file: EventFile, event: Event) -> None:
    """Append an event, or leave it out on an error of the disk."""
    with contextlib.suppress(OutputError):
        file.send([Delivery(event, "")])


def test_lines_are_appended_and_only_a_cut_line_is_lost(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    file = EventFile(path)
    event = Event("dropped", "door", "7 frames dropped", {"dropped": 7})
    append(file, event)
    path.write_bytes(path.read_bytes() + b'{"kind": "los')  # the process was killed
    append(EventFile(path), event)
    first, cut, second = path.read_text().splitlines()
    assert json.loads(first) == json.loads(second)
    assert json.loads(first) == {
        "kind": "dropped",
        "source": "door",
        "message": "7 frames dropped",
        "values": {"dropped": 7},
        "time": event.time,
    }
    assert cut == '{"kind": "los'
    path.rename(tmp_path / "events.1")
    append(file, event)
    assert path.read_text() == second + "\n"


def test_a_file_in_no_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="give --events a file in an existing folder"):
        EventFile(tmp_path / "logs" / "events")


def test_events_wait_for_a_disk_that_is_full(tmp_path: Path) -> None:
    path, told = tmp_path / "events", list[Event]()
    queue = EventQueue(EventFile(path), told.append, batch=1, wait_s=0.01)
    path.unlink()
    path.symlink_to("/dev/full")
    for number in range(5):
        queue(Event("track_enter", "door", str(number)))
    until(lambda: told)
    path.unlink()
    queue.finish(20)
    assert queue.join() == 0
    assert [json.loads(line)["message"] for line in path.read_text().splitlines()] == list("01234")
    assert [event.kind for event in told] == ["output_stopped", "output_back"]
    problem = "is not written: No space left on device; check the disk and the folder"
    assert told[0].message == f"{problem}; events wait, and are sent again"
    assert told[1].values["lost"] == 0


def test_a_line_that_does_not_fit_leaves_nothing(tmp_path: Path) -> None:
    """RLIMIT_FSIZE cuts a write short, as a disk does that has some bytes left."""
    path = tmp_path / "events"
    file, event = EventFile(path), Delivery(Event("lost", "door", "x" * 100), "")
    file.send([event])
    whole, old = path.read_bytes(), resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(whole) + 50, old[1]))
        with pytest.raises(OutputError, match="File too large"):
            file.send([event])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
        signal.signal(signal.SIGXFSZ, handler)
    assert path.read_bytes() == whole
    file.send([event])
    assert path.read_bytes() == whole * 2


def test_names_that_are_no_utf8_are_written(tmp_path: Path) -> None:
    append(EventFile(tmp_path / "events"), Event("ended", "\udcff.mp4", "ended", {"part": "\udcfe"}))
    line = json.loads((tmp_path / "events").read_text())
    assert (line["source"], line["values"]) == ("?.mp4", {"part": "?"})


def told(folder: Path) -> list[list[str]]:
    """Return the messages of every part, in the order of their names."""
    time = slice(len("events-20200101T000000Z"))
    paths = sorted(
        folder.glob("events-*Z*.jsonl"), key=lambda path: (path.name[time], len(path.name), path.name)
    )
    return [[json.loads(line)["message"] for line in path.read_text().splitlines()] for path in paths]


def test_parts_end_are_continued_and_are_deleted_as_those_of_an_output(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, path = [1000.0], tmp_path / "events.jsonl"
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    path.write_text("of a run without --rotate\n")
    files = FilePolicy.parse("10s", "25s")
    file = EventFile(path, files)
    for second in range(25):
        append(file, Event("lost", "door", f"{second:02d}"))
        now[0] += 1
    parts = [[f"{second:02d}" for second in range(start, start + 10)] for start in (0, 10)]
    assert told(tmp_path) == [*parts, ["20", "21", "22", "23", "24"]]
    file = EventFile(path, files)
    append(file, Event("lost", "door", "a restart"))
    assert told(tmp_path)[2][-2:] == ["24", "a restart"]
    file.rotate()
    now[0] += 26
    append(file, Event("lost", "door", "later"))
    assert told(tmp_path) == [["20", "21", "22", "23", "24", "a restart"], ["later"]]
    assert path.read_text() == "of a run without --rotate\n"


def test_parts_are_bounded_on_a_disk_that_is_gone_for_a_while(tmp_path: Path) -> None:
    folder = tmp_path / "logs"
    folder.mkdir()
    file = EventFile(folder / "events.jsonl", FilePolicy.parse("1kB", "5kB"))
    for _ in range(100):
        append(file, Event("lost", "door", "x" * 100))
    folder.rename(tmp_path / "gone")
    for _ in range(100):
        append(file, Event("lost", "door", "nobody sees this"))
    (tmp_path / "gone").rename(folder)
    for _ in range(100):
        append(file, Event("back", "door", "x" * 100))
    sizes = [path.stat().st_size for path in folder.iterdir()]
    assert len(sizes) > 3
    assert max(sizes) < 1300
    assert sum(sizes) <= 5000
    assert told(folder)[-1][-1] == "x" * 100


def test_a_full_disk_begins_no_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    file = EventFile(tmp_path / "events.jsonl", FilePolicy.parse("1s"))
    (part,) = tmp_path.iterdir()
    part.unlink()
    part.symlink_to("/dev/full")
    for _ in range(3):
        append(file, Event("lost", "door", "nobody sees this"))
        now[0] += 1
    assert [*tmp_path.iterdir()] == [part]


def test_restarts_do_not_lengthen_a_part(tmp_path: Path) -> None:
    path = tmp_path / "events-20200101T000000Z.jsonl"
    path.touch()
    for _ in range(3):
        append(EventFile(tmp_path / "events.jsonl", FilePolicy.parse("1h")), Event("lost", "door", "lost"))
    assert [len(part) for part in told(tmp_path)] == [1, 2]
    assert path.read_text().count("\n") == 1


def test_a_name_without_room_for_the_time_is_refused_at_the_start(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="File name too long; give --events"):
        EventFile(tmp_path / f"{240 * 'n'}.jsonl", FilePolicy.parse("1h"))
