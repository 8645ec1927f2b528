"""The file of events: whole lines, renamed files and full disks."""

import json
import logging
from pathlib import Path

import pytest

from idol_runtime.errors import OutputError
from idol_runtime.events import Event, EventFile


def test_lines_are_appended_and_only_a_cut_line_is_lost(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    tell = EventFile(path)
    event = Event("dropped", "door", "7 frames dropped", {"dropped": 7})
    tell(event)
    path.write_bytes(path.read_bytes() + b'{"kind": "los')  # the process was killed
    EventFile(path)(event)
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
    tell(event)
    assert path.read_text() == second + "\n"


def test_a_file_that_cannot_be_written_does_not_end_the_run(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "logs"
    with pytest.raises(OutputError, match="give --events a file in an existing folder"):
        EventFile(folder / "events")
    folder.mkdir()
    tell = EventFile(folder / "events")
    (folder / "events").unlink()
    folder.rmdir()
    with caplog.at_level(logging.WARNING):
        tell(Event("lost", "door", "lost"))
        tell(Event("lost", "door", "lost"))
    assert len(caplog.records) == 1
    folder.mkdir()
    tell(Event("back", "door", "back"))
    assert (folder / "events").read_text().count("\n") == 1
