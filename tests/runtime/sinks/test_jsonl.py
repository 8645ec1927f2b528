"""JSON lines: what a line contains, and what is left on a full disk."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from idol_runtime.errors import OutputError
from idol_runtime.events import Event
from idol_runtime.sinks.jsonl import JsonlSink
from idol_runtime.tracking.rle import decode_rle
from samples.results import context, frame, nothing, result


def test_json_lines_hold_the_whole_result(tmp_path: Path) -> None:
    with JsonlSink(tmp_path / "out.jsonl", context()) as sink:
        sink.write(frame(0), result())
        sink.write(frame(5), nothing())
    first, second = map(json.loads, (tmp_path / "out.jsonl").read_text().splitlines())
    assert second == {"frame": 5, "time_s": 0.166667, "size": [48, 64], "instances": []}
    assert [first["frame"], first["time_s"], first["size"]] == [0, 0.0, [48, 64]]
    for i, instance in enumerate(first["instances"]):
        np.testing.assert_array_equal(decode_rle(instance.pop("mask")), result().masks[i])
    assert first["instances"] == [
        {"id": 0, "label": 1, "class": "cat", "score": 0.25, "box_xyxy": [4.0, 4.0, 30.0, 20.0]},
        {"id": 3, "label": 0, "class": "person", "score": 0.87, "box_xyxy": [10.0, 10.0, 40.0, 30.13]},
    ]


def lines(path: Path) -> list[int]:
    return [json.loads(line)["frame"] for line in path.read_text().splitlines()]


def write(path: Path, frames: range, **facts: Any) -> None:
    with JsonlSink(path, context(**facts)) as sink:
        for i in frames:
            sink.write(frame(i), result())


def test_a_live_source_appends_and_repairs_a_cut_line(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    write(path, range(3), live=True)
    whole = path.read_bytes()
    path.write_bytes(whole[:-9])
    write(path, range(7, 9), live=True)
    assert lines(path) == [0, 1, 7, 8]
    path.write_bytes(whole + b"\0" * 200_000)  # as a power failure leaves it
    write(path, range(7, 9), live=True)
    assert lines(path) == [0, 1, 2, 7, 8]


@pytest.mark.parametrize(("first", "kept"), [(2, [0, 1]), (3, [0, 1, 2]), (5, [0, 1, 2]), (0, [])])
def test_a_continued_file_has_every_frame_once(tmp_path: Path, first: int, kept: list[int]) -> None:
    """A killed run has written more frames than its last state says."""
    path, whole = tmp_path / "out.jsonl", tmp_path / "whole.jsonl"
    write(path, range(3))
    write(path, range(first, 8), append=True)
    assert lines(path) == [*kept, *range(first, 8)]
    write(whole, range(8))
    assert path.read_bytes() == whole.read_bytes() or first == 5


def test_json_lines_on_a_full_disk_keep_what_was_written(small_disk: Path) -> None:
    path = small_disk / "out.jsonl"
    with pytest.raises(OutputError, match=r"out\.jsonl: No space left on device; free some space$"):
        write(path, range(10_000))
    written = lines(path)
    assert written == list(range(len(written)))
    assert path.read_bytes().endswith(b"\n")
    assert len(written) > 500


def test_json_lines_of_a_live_source_survive_a_full_disk(
    small_disk: Path, fill: Callable[[], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("idol_runtime.sinks.base.RETRY_S", 0.0)
    events: list[Event] = []
    path = small_disk / "out.jsonl"
    with JsonlSink(path, context(live=True, tell=events.append)) as sink:
        sink.write(frame(0), result())
        ballast = fill()
        for i in range(1, 100):
            sink.write(frame(i), result())
        assert 0 < sink.frames_lost < 99
        ballast.unlink()
        sink.write(frame(100), result())
    assert [event.kind for event in events] == ["output_stopped", "output_back"]
    assert events[1].values["lost"] == sink.frames_lost
    assert lines(path) == [*range(100 - sink.frames_lost), 100]
    assert sink.note == f"frames not written to {path}: {sink.frames_lost}"


@pytest.mark.parametrize("live", [False, True])
def test_a_file_that_is_moved_or_deleted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, live: bool) -> None:
    """As logrotate moves files, and as a disk is taken out."""
    monkeypatch.setattr("idol_runtime.sinks.base.RETRY_S", 0.0)
    events: list[Event] = []
    folder = tmp_path / "stick"
    folder.mkdir()
    path = folder / "out.jsonl"
    sink = JsonlSink(path, context(live=live, tell=events.append))
    sink.write(frame(0), result())
    path.rename(folder / "moved")
    if not live:
        with pytest.raises(OutputError, match="was moved or deleted"):
            sink.write(frame(1), result())
        return
    sink.write(frame(1), result())
    assert (lines(folder / "moved"), lines(path)) == ([0], [1])
    shutil.rmtree(folder)
    sink.write(frame(2), result())
    assert "stick does not exist; create it first; the run goes on" in events[0].message
    folder.mkdir()
    sink.write(frame(3), result())
    sink.close()
    assert lines(path) == [3]
    assert [event.kind for event in events] == ["output_stopped", "output_back"]
