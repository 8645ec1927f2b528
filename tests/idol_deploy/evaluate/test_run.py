"""A whole evaluation, from files to files."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from idol_deploy import config as config_module
from idol_deploy.config import PRESETS, IdolConfig
from idol_deploy.evaluate.model import ModelChoice
from idol_deploy.evaluate.run import Evaluation, evaluate
from idol_deploy.settings import TrainSettings, override_settings, settings_to_json
from idol_deploy.weights.reference import make_video
from idol_runtime.errors import ConfigError, DataError, SourceError

if TYPE_CHECKING:
    from idol_deploy.model.idol import Idol

# An untrained network has low scores.
EVERYTHING = ("association.select_score=0", "association.init_score=0", "video.class_score=0")


def _quiet(_: str) -> None:
    pass


def test_a_results_file(official: Path, tmp_path: Path) -> None:
    task = Evaluation(official / "gt.json", official / "pred.json", json=tmp_path / "scores.json")
    done = evaluate(task, _quiet)
    expected = json.loads((official / "ytvis_result.json").read_text())
    assert json.loads(task.json.read_text())["summary"] == pytest.approx(expected["summary"], abs=1e-12)
    assert "14.79" in done.table
    assert done.notes == ("6 videos, 32 instances, 174 results",)
    assert done.outputs == (task.json,)


def test_the_videos_held_out_alone_count(official: Path) -> None:
    task = Evaluation(official / "gt.json", official / "pred.json", seed=3, share=0.4)
    assert evaluate(task, _quiet).notes == (
        "2 videos, 18 instances, 30 results; 144 results of other videos are left out",
    )


@pytest.fixture
def tiny_set(
    tmp_path: Path, tiny: Idol, tiny_config: IdolConfig, monkeypatch: pytest.MonkeyPatch
) -> Evaluation:
    """A checkpoint, two videos, and no annotations, as the public validation sets are."""
    from idol_deploy.weights.checkpoint import save_checkpoint

    monkeypatch.setattr(config_module, "PRESETS", {**PRESETS, "tiny": tiny_config})
    save_checkpoint(tmp_path / "tiny.safetensors", tiny, tiny_config)
    (tmp_path / "frames").mkdir()
    videos = []
    for i in (1, 2):
        names = [f"{i}-{t}.png" for t in range(2)]
        for name, frame in zip(names, make_video(2, 64, 96, i), strict=True):
            Image.fromarray(np.ascontiguousarray(frame.transpose(1, 2, 0))).save(tmp_path / "frames" / name)
        videos.append({"id": i, "height": 64, "width": 96, "file_names": names})
    classes = [{"id": i, "name": name} for i, name in enumerate(tiny_config.classes, 5)]
    (tmp_path / "gt.json").write_text(json.dumps({"videos": videos, "categories": classes}))
    return Evaluation(
        tmp_path / "gt.json",
        model=ModelChoice(weights=tmp_path / "tiny.safetensors", preset="tiny", settings=EVERYTHING),
        frames=tmp_path / "frames",
        results=tmp_path / "results.json",
        submission=tmp_path / "out.zip",
    )


def test_a_checkpoint_over_a_set_without_annotations(tiny_set: Evaluation) -> None:
    done = evaluate(tiny_set, _quiet)
    assert done.table == ""
    assert done.notes == ("pytorch (cpu)", "the data set has no annotations, so there is no score")
    assert done.outputs == (tiny_set.results, tiny_set.submission)
    results = json.loads(tiny_set.results.read_text())
    assert {entry["category_id"] for entry in results} == {5, 6}
    assert {len(entry["segmentations"]) for entry in results} == {2}


@pytest.mark.parametrize("what", ["association", "network", "frames", "fit"])
def test_parts_of_another_run_are_not_taken_over(
    tiny_set: Evaluation, tiny_config: IdolConfig, tmp_path: Path, what: str
) -> None:
    preset = tmp_path / "settings.json"
    preset.write_text(settings_to_json(TrainSettings(tiny_config)))
    assert tiny_set.model is not None
    begun = replace(tiny_set, model=replace(tiny_set.model, preset=str(preset)))
    broken = tmp_path / "frames" / "2-1.png"
    frame = broken.read_bytes()
    broken.write_bytes(frame[: len(frame) // 2])
    with pytest.raises(SourceError):
        evaluate(begun, _quiet)  # the first video is finished
    broken.write_bytes(frame)
    other = begun
    if what == "frames":
        shutil.copytree(tmp_path / "frames", tmp_path / "others")
        other = replace(begun, frames=tmp_path / "others")
    elif what == "fit":
        other = replace(begun, model=replace(begun.model, fit=True))
    else:
        change = "association.max_age=3" if what == "association" else "model.heads=4"
        preset.write_text(settings_to_json(override_settings(TrainSettings(tiny_config), [change])))
    with pytest.raises(ConfigError, match=rf"of another run \({what} differs\)"):
        evaluate(other, _quiet)
    # Equal settings at another path are the same run.
    moved = tmp_path / "moved.json"
    moved.write_text(settings_to_json(TrainSettings(tiny_config)))
    assert evaluate(replace(begun, model=replace(begun.model, preset=str(moved))), _quiet).outputs


def test_categories_that_the_model_lacks_are_named_before_and_with_the_scores(tiny_set: Evaluation) -> None:
    contents = json.loads(tiny_set.gt.read_text())
    contents["categories"].append({"id": 9, "name": "emu"})
    tiny_set.gt.write_text(json.dumps(contents | {"annotations": []}))
    announced: list[str] = []
    line = "1 of 3 categories are no class of the model (emu): their instances count as missed"
    assert line in evaluate(tiny_set, announced.append).notes
    assert line in announced


def test_no_annotations_and_no_use_for_the_results(tiny_set: Evaluation) -> None:
    with pytest.raises(DataError, match="give --submission, and no --json"):
        evaluate(Evaluation(tiny_set.gt, pred=tiny_set.gt), _quiet)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({}, "give --pred, or --bundle, or --weights"),
        ({"pred": Path("p"), "metric": "coco"}, "metric must be one of ytvis, ovis"),
        ({"pred": Path("p"), "results": Path("r")}, "leave it out with --pred"),
        ({"model": ModelChoice(bundle=Path("b"))}, "needs --frames"),
    ],
)
def test_what_does_not_go_together(changed: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Evaluation(Path("gt.json"), **changed)
