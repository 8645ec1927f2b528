"""A whole ablation of a tiny network, interrupted and continued."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import torch

from idol_deploy.evaluate.shards import Shard
from idol_deploy.settings import DataConfig, TrainSettings
from idol_deploy.studies.ablation import run as run_module
from idol_deploy.studies.ablation.run import Ablation, ablate
from idol_deploy.train.processes import Processes
from idol_runtime.errors import ConfigError, DataError
from moving_shapes import SHAPES, MadeDataset, make_videos

if TYPE_CHECKING:
    from pathlib import Path

    from idol_deploy.config import IdolConfig

ALONE = Processes(Shard(), torch.device("cpu"))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> MadeDataset:
    return make_videos(tmp_path_factory.mktemp("ovis"), videos=2, frames=3, size=(48, 64), form="ovis")


@pytest.fixture
def task(tiny_config: IdolConfig, made: MadeDataset, tmp_path: Path) -> Ablation:
    train = replace(
        tiny_config.train, min_sizes=(48,), max_size=64, crop_range=(32, 48), batch_pairs=1, iterations=1
    )
    # Every detection starts a track, since an untrained network has low scores.
    association = replace(
        tiny_config.association, select_score=0.0, init_score=0.0, new_track_score=0.0, mask_nms_iou=1.0
    )
    preprocessing = replace(tiny_config.preprocessing, short_side=96)
    network = replace(
        tiny_config, classes=SHAPES, train=train, association=association, preprocessing=preprocessing
    )
    settings = TrainSettings(network, DataConfig(str(made.annotations), str(made.frames), workers=0))
    return Ablation(settings, made.annotations, made.frames, tmp_path / "out", seeds=(3,))


def test_an_ablation_goes_on_where_it_was_cut_off(task: Ablation, monkeypatch: pytest.MonkeyPatch) -> None:
    messages: list[str] = []
    trained: list[str] = []

    def train(training: object, *rest: object) -> object:
        if "seed3/transport" in str(training.output) and not trained.count("transport"):
            trained.append("transport")
            raise KeyboardInterrupt
        trained.append(training.output.name)
        return before(training, *rest)

    before = run_module.train
    monkeypatch.setattr(run_module, "train", train)
    with pytest.raises(KeyboardInterrupt):
        ablate(task, ALONE, messages.append)
    first = {path: path.read_bytes() for path in task.output.glob("seed3/*.json")}
    assert {path.stem for path in first} == {"id_head_cues", "contrast_cues", "contrast"}

    done = ablate(task, ALONE, messages.append)
    assert trained == ["id_head", "iou", "transport", "transport"], "what was done is not done again"
    assert not done.interrupted
    assert all(path.read_bytes() == data for path, data in first.items())
    written = json.loads((task.output / "ablation.json").read_text())
    assert list(written["rows"]) == ["id_head_cues", "contrast_cues", "contrast", "transport", "temporal"]
    assert all(
        0 <= score <= 1 for row in written["cells"].values() for score in (row["3"]["AP"], row["3"]["IDF1"])
    )
    assert (task.output / "ablation.md").read_text() == done.table
    settings = json.loads((task.output / "seed3/id_head/settings.json").read_text())
    assert (settings["run"]["seed"], settings["network"]["train"]["loss"]["embedding"]) == (3, "id_head")


def test_cells_of_other_settings_are_kept_apart(task: Ablation) -> None:
    one = replace(task, rows=("temporal",))
    ablate(one, ALONE, lambda _: None)
    longer = replace(task.settings.network.train, iterations=2)
    other = replace(task.settings, network=replace(task.settings.network, train=longer))
    with pytest.raises(ConfigError, match="other settings; choose another folder"):
        ablate(replace(one, settings=other), ALONE, lambda _: None)


def test_rows_that_do_not_exist(task: Ablation) -> None:
    with pytest.raises(ConfigError, match="no row 'tempral'; choose of id_head_cues, "):
        replace(task, rows=("tempral",))


def test_videos_that_cannot_be_scored_are_refused_before_the_first_training(
    task: Ablation, tmp_path: Path
) -> None:
    plain = make_videos(tmp_path / "ytvis", videos=1, frames=2, size=(48, 64))
    with pytest.raises(DataError, match="has no occlusion levels; give videos with them"):
        ablate(replace(task, annotations=plain.annotations, frames=plain.frames), ALONE, lambda _: None)
    assert not task.output.exists()
