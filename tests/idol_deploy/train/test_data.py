from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from idol_deploy.train.data import open_training_data
from idol_runtime.errors import SourceError

if TYPE_CHECKING:
    from idol_deploy.data.synthetic import MadeDataset
    from idol_deploy.train.settings import TrainSettings


@pytest.fixture
def held(settings: TrainSettings) -> TrainSettings:
    """One of three videos is held out."""
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
