from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from idol_deploy.data.faults import FaultLog
from idol_deploy.studies.figure.identities import read_truth
from idol_deploy.studies.figure.timeline import Timeline, draw_timeline
from idol_runtime.errors import DataError
from idol_runtime.tracking.rle import encode_rle
from moving_shapes import MadeDataset, draw_clip


def results(folder: Path, masks: np.ndarray, ids: list[list[int | None]], frames: list[int]) -> Path:
    """JSON lines in which shape i of frame t has the identity ids[i][t]."""
    path = folder / "found.jsonl"
    lines = []
    for t, frame in enumerate(frames):
        instances: list[dict[str, Any]] = [
            {
                "id": of_shape[t],
                "label": 0,
                "class": "thing",
                "score": 0.5,
                "mask": dict(encode_rle(masks[i, frame])),
            }
            for i, of_shape in enumerate(ids)
            if of_shape[t] is not None
        ]
        lines.append(json.dumps({"frame": frame, "size": masks.shape[2:], "instances": instances}))
    path.write_text("\n".join(lines))
    return path


@pytest.fixture
def masks() -> np.ndarray:
    """[3, 4, 48, 64] of the shapes of video 1."""
    return draw_clip(4, (48, 64), 3, 1).masks


def test_tracks_beside_the_annotations(
    videos: MadeDataset, masks: np.ndarray, tmp_path: Path, svg: Callable[..., str]
) -> None:
    assert masks.any((2, 3)).all()
    found = results(tmp_path, masks, [[0, 5, 5, 0], [1, 1, 1, 1], [2, None, None, 3]], [0, 1, 2, 3])
    drawn: list[Timeline] = []
    source = svg(lambda path: drawn.append(draw_timeline(found, path, gt=videos.annotations, video="0001")))
    assert drawn == [Timeline(tracks=5, instances=3, switches=3)]
    for text in ("thing #5", "5 tracks, the stronger the colour the higher the score", "50%", "100%", "0.50"):
        assert f">{text}</text>" in source
    assert "grey where none does; 3 switches (black)" in source


def test_a_crowd_is_left_out_and_told(
    videos: MadeDataset, masks: np.ndarray, tmp_path: Path, svg: Callable[..., str]
) -> None:
    found = results(tmp_path, masks, [[0, 0, 0, 0], [1, 1, 1, 1]], [0, 1, 2, 3])
    content = json.loads(videos.annotations.read_text())
    content["annotations"][0]["iscrowd"] = 1
    gt = tmp_path / "crowd.json"
    gt.write_text(json.dumps(content))
    drawn: list[Timeline] = []
    svg(lambda path: drawn.append(draw_timeline(found, path, gt=gt, video="1")))
    assert drawn[0].instances == 2
    assert [line[:27] for line in drawn[0].left_out] == [f"1 x crowd, first {gt}"[:27]]
    log = FaultLog()
    assert read_truth(gt, "1", log)[1].id == 1
    assert log.counts == {"crowd": 1}


def test_every_second_frame_and_the_longest_tracks(
    videos: MadeDataset, masks: np.ndarray, tmp_path: Path, svg: Callable[..., str]
) -> None:
    found = results(tmp_path, masks, [[0, 5], [1, 1], [2, 2]], [1, 3])
    drawn: list[Timeline] = []
    source = svg(
        lambda path: drawn.append(draw_timeline(found, path, gt=videos.annotations, video="1", most=2))
    )
    assert drawn == [Timeline(4, 3, 1)]
    assert "thing #2" in source
    assert "thing #5" not in source
    assert "4 tracks, the stronger the colour the higher the score; 2 shorter ones are left out" in source
    assert "annotated" not in svg(lambda path: draw_timeline(found, path))


def test_results_of_another_video(videos: MadeDataset, masks: np.ndarray, tmp_path: Path) -> None:
    out, gt = tmp_path / "a.png", videos.annotations
    found = results(tmp_path, masks, [[0, 0]], [0, 1])
    with pytest.raises(DataError, match="has no video id; give --video"):
        draw_timeline(found, out, gt=gt)
    with pytest.raises(DataError, match="is a name, which needs annotations; give its id, or --gt as well"):
        draw_timeline(found, out, video="street")
    found.write_text(found.read_text().replace('"frame": 1', '"frame": 4'))
    with pytest.raises(
        DataError, match=r"up to number 4, video 1 of .* has 4 of 48x64; give the results of this"
    ):
        draw_timeline(found, out, gt=gt, video="1")
    found = results(tmp_path, masks, [], [0])
    with pytest.raises(DataError, match="has no tracks; run with a lower --score"):
        draw_timeline(found, out, gt=gt, video="1")
    assert not out.exists()
