"""JSON lines: what a line contains, and what is left on a full disk."""

import errno
import json
from pathlib import Path

import numpy as np
import pytest

from idol_runtime.errors import OutputError
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


class FullDisk:
    """A file on a full disk."""

    def write(self, _: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    def close(self) -> None:
        return


def test_json_lines_on_a_full_disk(tmp_path: Path) -> None:
    sink = JsonlSink(tmp_path / "out.jsonl", context())
    sink.write(frame(0), result())
    sink._file.close()
    sink._file = FullDisk()  # type: ignore[assignment]
    with pytest.raises(OutputError, match=r"out\.jsonl: No space left"), sink:
        sink.write(frame(1), result())
    assert len((tmp_path / "out.jsonl").read_text().splitlines()) == 1
