from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from idol_deploy.studies.figure.tracks import read_tracks
from idol_runtime.errors import DataError
from idol_runtime.tracking.rle import encode_rle

FULL = dict(encode_rle(np.ones((2, 3), np.bool_)))
LEFT = dict(encode_rle(np.eye(2, 3, dtype=np.bool_)))
EMPTY = dict(encode_rle(np.zeros((2, 3), np.bool_)))


def line(
    frame: int, *instances: tuple[int, str, float, dict[str, Any]], size: tuple[int, int] = (2, 3)
) -> str:
    listed = [
        {"id": i, "label": 0, "class": name, "score": score, "box_xyxy": [0, 0, 1, 1], "mask": mask}
        for i, name, score, mask in instances
    ]
    return json.dumps({"frame": frame, "time_s": 0.1, "size": size, "instances": listed}) + "\n"


def entry(score: float, *masks: dict[str, Any] | None, video: int = 4, category: int = 1) -> dict[str, Any]:
    return {"video_id": video, "category_id": category, "score": score, "segmentations": list(masks)}


def write(folder: Path, content: object) -> Path:
    path = folder / "found"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_json_lines(tmp_path: Path) -> None:
    text = line(0, (7, "cat", 0.5, LEFT)) + line(2) + line(4, (7, "dog", 0.7, FULL), (9, "cat", 0.2, LEFT))
    text += line(6, (7, "dog", 0.9, EMPTY))
    found = read_tracks(write(tmp_path, text))
    assert (found.frames.tolist(), found.size, found.video_id) == ([0, 2, 4, 6], (2, 3), None)
    assert [(track.id, track.name) for track in found.tracks] == [(7, "dog"), (9, "cat")]
    np.testing.assert_array_equal(found.tracks[0].scores, [0.5, np.nan, 0.7, 0.9])
    assert found.tracks[0].masks.areas.tolist() == [2, 0, 6, 0]


def test_results_under_several_classes_are_one_track(tmp_path: Path) -> None:
    results = [
        entry(0.3, None, LEFT, category=1),
        entry(0.6, EMPTY, LEFT, category=2),
        entry(0.1, EMPTY, EMPTY),
        entry(0.2, FULL, None),
        entry(0.9, FULL, FULL, video=5),
    ]
    path = write(tmp_path, results)
    found = read_tracks(path, video_id=4, names={2: "cat"})
    assert (found.frames.tolist(), found.size, found.video_id) == ([0, 1], (2, 3), 4)
    assert [track.name for track in found.tracks] == ["category 1", "cat"]
    assert len({track.id for track in found.tracks}) == 2
    np.testing.assert_array_equal(found.tracks[1].scores, [np.nan, 0.6])
    with pytest.raises(DataError, match="has 2 videos, 4 to 5; choose one with --video"):
        read_tracks(path)
    with pytest.raises(DataError, match="has no result of video 6; choose another"):
        read_tracks(path, video_id=6)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is empty; give an output of run --jsonl or --results"),
        ('{"iteration": 1}\n', "is no results file: .*; give an output of run"),
        ("[3]", "is no results file: .*; give an output of run"),
        ("[]", "has no result; choose another"),
        (
            line(0, (1, "cat", 0.5, {"size": [2, 3], "counts": "1"})),
            "the mask of frame 0 covers 1 pixels of 2x3",
        ),
        (line(0, (1, "cat", 0.5, FULL), size=(3, 2)), "the mask of frame 0 is 2x3 .* but its video is 3x2"),
        ([entry(0.5, FULL), entry(0.5, FULL, FULL)], "the results of video 4 differ in size or length"),
        ([entry(0.5, None)], "the results of video 4 differ in size or length"),
    ],
)
def test_what_is_no_results_file(tmp_path: Path, content: object, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_tracks(write(tmp_path, content))


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"cannot read .*: No such file or directory; check the path"):
        read_tracks(tmp_path / "none")
