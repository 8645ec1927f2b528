from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from idol_deploy.studies.figure.curves import draw_curves, read_log, smoothed
from idol_runtime.errors import DataError


def entry(iteration: int, **changed: Any) -> dict[str, Any]:
    losses = {"loss_ce": 0.5 / iteration, "loss_ce_0": 9.0, "loss_reid": 2.0}
    seconds = {"data": 0.1, "forward": 0.2, "backward": 0.1, "step": 0.1}
    rest = {"skipped": False, "matched": 7.0, "items": 3.0, "faults": 0}
    whole = {"iteration": iteration, "loss": 4.0 / iteration, "losses": losses, "lr": 1e-4, "grad_norm": 2.0}
    return whole | {"seconds": seconds} | rest | changed


def write(folder: Path, entries: list[dict[str, Any]], cut: str = "") -> Path:
    folder.mkdir(parents=True)
    (folder / "log.jsonl").write_text("".join(json.dumps(e) + "\n" for e in entries) + cut)
    return folder


@given(
    st.lists(st.one_of(st.just(math.nan), st.floats(-10, 10)), min_size=1, max_size=30), st.integers(1, 12)
)
def test_smoothing_is_the_mean_around(values: list[float], window: int) -> None:
    found = smoothed(np.array(values), window)
    for i, value in enumerate(found):
        around = [v for j, v in enumerate(values) if i - window // 2 <= j < i + (window + 1) // 2 and v == v]
        if around:
            assert value == pytest.approx(sum(around) / len(around), abs=1e-9)
        else:
            assert math.isnan(value)


def test_a_log_in_work_with_scores_and_a_skipped_step(tmp_path: Path) -> None:
    scores = {"iteration": 2, "scores": {"AP": 0.25, "APs": None}}
    entries = [entry(1), entry(2, grad_norm=None, skipped=True), scores, entry(3)]
    run = write(tmp_path / "first", entries, cut='{"iteration": 4, "lo')
    log = read_log(run)
    assert log.name == "first"
    assert list(log.curves) == [
        *("loss", "loss_ce", "loss_reid", "grad_norm", "lr", "matched", "items", "seconds", "waiting", "AP")
    ]
    np.testing.assert_array_equal(log.curves["loss"].iterations, [1, 2, 3])
    np.testing.assert_allclose(log.curves["loss"].values, [4, 2, 4 / 3])
    np.testing.assert_allclose(log.curves["grad_norm"].values, [2, np.nan, 2])
    np.testing.assert_allclose(log.curves["seconds"].values, 0.5)
    np.testing.assert_allclose(log.curves["waiting"].values, 0.2)
    np.testing.assert_array_equal(log.curves["AP"].iterations, [2])
    assert read_log(run / "log.jsonl").curves.keys() == log.curves.keys()


def test_runs_of_one_name_are_told_apart(tmp_path: Path, svg: Callable[..., str]) -> None:
    runs = [write(tmp_path / place, [entry(1), entry(2)]) for place in ("a/same", "b/same", "other")]
    source = svg(lambda path: draw_curves(runs, path))
    for name in (str(runs[0]), str(runs[1]), "other"):
        assert f">{name}</text>" in source
    for title in ("loss_ce, last layer", "gradient norm before clipping", "learning rate", "queries matched"):
        assert f">{title}</text>" in source


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot read .*; give a training run's folder or its log.jsonl"),
        ("", "has no iteration yet"),
        ('{"iteration": 1', "has no iteration yet"),
        ('{"iteration": 1}\n{"iteration": }\n', "is no log of a training run: JSON is malformed"),
        ('{"frame": 1}\n', "is no log of a training run: .*`iteration`"),
    ],
)
def test_what_is_no_log(tmp_path: Path, content: str | None, message: str) -> None:
    if content is not None:
        (tmp_path / "log.jsonl").write_text(content)
    with pytest.raises(DataError, match=message):
        read_log(tmp_path / "log.jsonl")
    with pytest.raises(DataError, match=message):
        draw_curves([tmp_path], tmp_path / "a.png")
    assert not (tmp_path / "a.png").exists()
