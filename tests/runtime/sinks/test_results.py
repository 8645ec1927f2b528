"""Results files: bounded memory while they are written, and sources that cannot have one."""

import json
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from idol_runtime.errors import ConfigError, OutputError
from idol_runtime.preprocess import Placement
from idol_runtime.sinks.results import ResultsSink
from idol_runtime.tracking.crops import MaskCrop
from idol_runtime.tracking.results import FrameResult
from samples.results import SIZE, context, frame

NOISE = np.random.default_rng(0).random((40, 40)) < 0.5


def tracked(index: int) -> FrameResult:
    """Return two instances, of identities that change every 100 frames."""
    scores = np.full((2, 2), 0.6, np.float32)
    result = FrameResult(
        index=index,
        ids=np.arange(2) + index // 100 * 2,
        labels=np.zeros(2, np.int64),
        scores=scores.max(axis=1),
        class_scores=scores,
        boxes_xyxy=np.zeros((2, 4), np.float32),
        mask_logits=np.zeros((2, 2, 3), np.float32),
        placement=Placement(SIZE, SIZE, SIZE),
        class_names=("person", "cat"),
    )
    result.__dict__["crops"] = (MaskCrop(0, index % 20, NOISE),) * 2  # instead of the computed property
    return result


def test_memory_does_not_grow_with_the_masks(tmp_path: Path) -> None:
    with ResultsSink(tmp_path / "out.json", context()) as sink:
        for i in range(1000):
            if i == 500:
                tracemalloc.start()
            sink.write(frame(i), tracked(i))
        assert tracemalloc.get_traced_memory()[0] < 100_000  # in memory, the masks take 1.1 MB
        assert [path.name for path in tmp_path.iterdir()] == []
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    entries = json.loads((tmp_path / "out.json").read_bytes())
    assert len(entries) == 40
    assert [len(entry["segmentations"]) for entry in entries] == [1000] * 40
    assert peak < (tmp_path / "out.json").stat().st_size / 4


def write(sink: ResultsSink, frames: int) -> None:
    for i in range(frames):
        sink.write(frame(i), tracked(i))


@pytest.mark.parametrize(
    ("facts", "why"),
    [
        ({"live": True}, "street is live; write --jsonl"),
        ({"append": True}, "run is continued; write --jsonl"),
    ],
)
def test_a_part_of_a_video_has_no_results(tmp_path: Path, facts: dict[str, Any], why: str) -> None:
    with pytest.raises(ConfigError, match=f"--results needs one whole video, but .*{why}"):
        ResultsSink(tmp_path / "out.json", context(**facts))


def test_results_on_a_full_disk_keep_the_old_file(small_disk: Path) -> None:
    (small_disk / "out.json").write_text("[]")
    sink = ResultsSink(small_disk / "out.json", context())
    with pytest.raises(OutputError, match="No space left on device; free some space"), sink:
        write(sink, 2000)
    assert [path.name for path in small_disk.iterdir()] == ["out.json"]
    assert (small_disk / "out.json").read_text() == "[]"
