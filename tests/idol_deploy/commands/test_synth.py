"""Tests of `idol-deploy synth`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.idol_deploy.conftest import Command


def test_synth_writes_what_evaluate_reads(idol: Command, tmp_path: Path) -> None:
    output = tmp_path / "val"
    small = ("--videos", 2, "--frames", 12, "--size", "64x96", "--classes", "bird, ring", "--set", "noise=0")
    done = idol("synth", "--preset", "hard", "--split", "val", *small, "--seed", 4, "-o", output)
    assert (done.status, done.err) == (0, "")
    assert "2 videos, 24 frames" in done.out
    assert f"wrote {output}/instances.json\n" in done.out
    about = json.loads((output / "dataset.json").read_text())
    assert (about["preset"], about["split"], about["seed"]) == ("hard", "val", 4)
    assert (about["classes"], about["config"]["noise"]) == (["bird", "ring"], 0)

    truth = json.loads((output / "instances.json").read_text())
    keys = ("video_id", "category_id", "segmentations")
    results = [{"score": 1.0, **{key: one[key] for key in keys}} for one in truth["annotations"]]
    (tmp_path / "results.json").write_text(json.dumps(results))
    scores = tmp_path / "scores.json"
    files = ("--gt", output / "instances.json", "--pred", tmp_path / "results.json", "--json", scores)
    assert idol("evaluate", *files, "--metric", "ovis").status == 0
    summary = json.loads(scores.read_text())["summary"]
    assert summary["AP"] == pytest.approx(1)


def test_synth_refuses(refused: Callable[..., str], tmp_path: Path) -> None:
    output = tmp_path / "out"
    for arguments, fix in (
        (("--preset", "simple"), "take one of easy, standard, hard"),
        (("--split", "test"), "take one of train, val"),
        (("--classes", "birds"), "choose from animal"),
        (("--cutouts", tmp_path), "give another folder"),
        (("--only-cutouts",), "give --cutouts DIR as well"),
        (("--set", "noise"), "write KEY=VALUE"),
    ):
        assert fix in refused("synth", *arguments, "-o", output)
    assert not output.exists()
