"""Tests of `idol-deploy train`."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from moving_shapes import MadeDataset, make_videos

if TYPE_CHECKING:
    from tests.idol_deploy.conftest import Command


@pytest.fixture
def shapes(tmp_path_factory: pytest.TempPathFactory) -> MadeDataset:
    return make_videos(tmp_path_factory.mktemp("shapes"), videos=2, frames=3, size=(48, 64), shapes=2)


def _log(output: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (output / "log.jsonl").read_text().splitlines()]


def _train(shapes: MadeDataset, output: Path, *more: object) -> list[object]:
    small = ("train.min_sizes=48", "train.batch_pairs=1", "train.iterations=2", "data.workers=0")
    arguments = ["--preset", "toy", "--own-classes", "--output", output, *more]
    data = ["--annotations", shapes.annotations, "--frames", shapes.frames]
    return ["train", *arguments, *data, *(part for setting in small for part in ("--set", setting))]


@pytest.mark.usefixtures("toy_preset")
def test_train_writes_weights_and_goes_on(
    idol: Command, refused: Callable[..., str], shapes: MadeDataset, tmp_path: Path
) -> None:
    output = tmp_path / "run"
    done = idol(*_train(shapes, output, "--holdout", 0, "--global-normaliser"))
    assert (done.status, done.err) == (0, "")
    assert "training with 1 videos" in done.out
    assert done.out.endswith(f"2 iterations\nwrote {output}/final.safetensors\n")
    settings = json.loads((output / "settings.json").read_text())
    assert settings["network"]["train"]["loss"]["global_normaliser"]
    assert settings["network"]["classes"] == ["disc", "square", "triangle"]

    assert "continue it with --resume, or choose another" in refused(*_train(shapes, output))
    assert "leave --preset out, or use --set" in refused(*_train(shapes, output, "--resume"))
    resume = ["train", "--resume", "--output", output, "--set"]
    assert "another network" in refused(*resume, "model.queries=9")
    done = idol(*resume, "train.iterations=3")
    assert done.out.endswith(f"3 iterations\nwrote {output}/final.safetensors\n"), done
    assert [line["iteration"] for line in _log(output)] == [1, 2, 3]

    described = json.loads(idol("inspect", "--json", output / "final.safetensors").out)
    assert described["classes"] == 3
    evaluate = [
        "evaluate",
        "--gt",
        shapes.annotations,
        "--frames",
        shapes.frames,
        "--results",
        tmp_path / "r.json",
    ]
    weights = ["--weights", output / "iteration-00000003.pt", "--preset", output / "settings.json"]
    assert idol(*evaluate, *weights).status == 0


@pytest.mark.parametrize(
    ("more", "fix"),
    [
        (["--set", "train.speed=1"], "unknown key 'speed'"),
        (["--set", "run.evaluate_period=1"], "set data.holdout=0 as well"),
        (["--set", "run.accumulate=2"], "set train.batch_pairs to a multiple of 2"),
        (["--weights", "gone.pth"], "gone.pth: No such file or directory; check the path"),
        (["--annotations", "gone.json"], "gone.json: No such file or directory; check the path"),
        (["--frames", "gone"], "give the folder that holds them"),
        (["--device", "cuda:99"], "PyTorch cannot use device cuda:99"),
        (["--device", "none"], "PyTorch cannot use device none; use cpu, cuda or cuda:N\n"),
        (["--preset", "gone.json"], "cannot read settings gone.json"),
    ],
)
@pytest.mark.usefixtures("toy_preset")
def test_wrong_settings_are_reported_before_training_starts(
    refused: Callable[..., str], shapes: MadeDataset, tmp_path: Path, more: list[str], fix: str
) -> None:
    arguments = _train(shapes, tmp_path / "run")
    assert fix in refused(*arguments, *more)


@pytest.mark.usefixtures("toy_preset")
def test_train_tells_what_it_leaves_out(idol: Command, shapes: MadeDataset, tmp_path: Path) -> None:
    content = json.loads(shapes.annotations.read_text())
    content["categories"].append({"id": 9, "name": "shapes"})
    content["annotations"][0]["iscrowd"] = 1
    changed = tmp_path / "crowd.json"
    changed.write_text(json.dumps(content))
    done = idol(*_train(replace(shapes, annotations=changed), tmp_path / "run"))
    assert done.status == 0
    assert f"left out: 1 x crowd, first {changed}: annotation 1: it is a crowd" in done.out
    absent = len({a["category_id"] for a in content["annotations"][1:]})
    assert f"note: {4 - absent} of 4 classes have no instance to train on" in done.out
    assert "shapes); if one is no class" in done.out


@pytest.mark.parametrize("missing", ["preset", "annotations", "frames"])
def test_train_names_what_is_missing(refused: Callable[..., str], tmp_path: Path, missing: str) -> None:
    given = {"preset": "ytvis19_r50", "annotations": "a.json", "frames": "f"}
    del given[missing]
    arguments = [part for name, value in given.items() for part in (f"--{name}", value)]
    assert f"--{missing} is missing" in refused("train", "--output", tmp_path / "run", *arguments)


def test_nothing_to_resume(refused: Callable[..., str], tmp_path: Path) -> None:
    assert "there is no snapshot in" in refused("train", "--resume", "--output", tmp_path)


@pytest.mark.parametrize("package", ["torch", "safetensors", "pycocotools"])
def test_train_names_a_missing_package(
    refused: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    message = refused("train", "--output", tmp_path)
    assert f"needs {package}, which is not installed" in message
    assert "pip install 'idol-deploy[train]'" in message
