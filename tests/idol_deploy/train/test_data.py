from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from idol_deploy.train.data import open_training_data
from idol_runtime.errors import DataError, SourceError

if TYPE_CHECKING:
    from idol_deploy.settings import TrainSettings
    from moving_shapes import MadeDataset


@pytest.fixture
def held(settings: TrainSettings) -> TrainSettings:
    """Settings that hold one of three videos out."""
    return replace(settings, data=replace(settings.data, holdout=0))


def test_a_frame_to_be_evaluated_is_missed_at_the_start(
    held: TrainSettings, shapes: MadeDataset, tmp_path: Path
) -> None:
    frames = tmp_path / "frames"
    shutil.copytree(shapes.frames, frames)
    held = replace(held, data=replace(held.data, frames=str(frames)))
    held_out = open_training_data(held).held_out
    assert held_out is not None
    gone = held_out.videos[0].files[1]
    (frames / gone).unlink()
    assert len(open_training_data(held).pairs) == 2
    with pytest.raises(SourceError, match=rf"{gone} does not exist"):
        open_training_data(replace(held, run=replace(held.run, evaluate_period=2)))


@pytest.mark.parametrize(
    ("left", "message"),
    [(None, "has no annotations; train on a file that has"), ([], "no instance is left to train on")],
)
def test_nothing_to_learn_is_refused_with_a_holdout_too(
    held: TrainSettings, tmp_path: Path, left: list[object] | None, message: str
) -> None:
    contents = json.loads(Path(held.data.annotations).read_text())
    del contents["annotations"]
    annotations = tmp_path / "instances.json"
    annotations.write_text(json.dumps(contents if left is None else contents | {"annotations": left}))
    for holdout in (0, None):
        data = replace(held.data, annotations=str(annotations), holdout=holdout)
        with pytest.raises(DataError, match=message):
            open_training_data(replace(held, data=data))


def test_held_out_videos_without_instances_are_refused(held: TrainSettings, tmp_path: Path) -> None:
    held_out = open_training_data(held).held_out
    assert held_out is not None
    contents = json.loads(Path(held.data.annotations).read_text())
    for track in contents["annotations"]:
        track["iscrowd"] = int(track["video_id"] == held_out.videos[0].id)
    annotations = tmp_path / "instances.json"
    annotations.write_text(json.dumps(contents))
    held = replace(held, data=replace(held.data, annotations=str(annotations)))
    assert open_training_data(held).held_out is not None
    with pytest.raises(DataError, match=r"have no instance to evaluate on; choose another data\.holdout"):
        open_training_data(replace(held, run=replace(held.run, evaluate_period=2)))
