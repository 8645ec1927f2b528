"""Scores equal the official evaluators and a slow version of their rules."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from idol_deploy.data.ytvis import OCCLUSION, read_dataset
from idol_deploy.evaluate.average_precision import (
    IOU_THRESHOLDS,
    LIMITS,
    RANGES,
    Metric,
    Range,
    match,
    metric_of,
    score,
)
from idol_deploy.evaluate.predictions import read_predictions
from idol_runtime.errors import DataError
from idol_runtime.tracking.rle import decode_rle
from moving_shapes import make_videos

CASES = [
    ("gt", "pred", "ytvis", "ytvis_result"),
    ("gt", "pred", "ovis", "ovis_result"),
    ("gt_uncompressed_rle", "pred", "ovis", "ovis_result"),
    ("gt_crowd", "pred", "ytvis", "ytvis_crowd_result"),
    ("gt", "pred_perfect", "ytvis", "ytvis_perfect_result"),
    ("gt", "pred_missing_class", "ytvis", "ytvis_missing_class_result"),
]


@pytest.mark.parametrize(("gt", "pred", "metric", "result"), CASES)
def test_equals_the_official_evaluators(
    official: Path, gt: str, pred: str, metric: Metric, result: str
) -> None:
    dataset = read_dataset(official / f"{gt}.json")
    scores = score(dataset, read_predictions(official / f"{pred}.json", dataset), metric, keep_overlaps=True)
    expected = json.loads((official / f"{result}.json").read_text())
    assert list(scores.summary) == list(expected["summary"])
    assert scores.summary == pytest.approx(expected["summary"], abs=1e-12)
    assert [str(category.dataset_id) for category in scores.categories] == list(expected["per_category"])
    for k, values in enumerate(expected["per_category"].values()):
        found = scores.of_category(k)
        assert list(found) == list(values)
        for name, value in values.items():
            assert found[name] == pytest.approx(value, abs=1e-12)
    for key, overlaps in expected["ious"].items():
        video, category = map(int, key.split("_"))
        matrix = scores.overlaps.get((video, category), np.zeros((0, 0)))
        np.testing.assert_array_equal(matrix, np.reshape(overlaps, matrix.shape))


@pytest.mark.parametrize(("form", "metric"), [("ytvis", "ytvis"), ("ovis", "ovis")])
def test_a_data_set_says_whose_rules_it_is_made_for(
    tmp_path: Path, form: Literal["ytvis", "ovis"], metric: Metric
) -> None:
    path = make_videos(tmp_path, videos=1, frames=1, size=(16, 16), form=form).annotations
    assert metric_of(read_dataset(path)) == metric
    contents = json.loads(path.read_text())
    contents["annotations"][1].pop("occlusion", None)  # the rules of OVIS need occlusion for every instance
    path.write_text(json.dumps(contents))
    assert metric_of(read_dataset(path)) == "ytvis"


# The rules, written out --------------------------------------------------------------------------------------


def _volume(entry: dict[str, Any]) -> np.ndarray:
    shape = next((mask["size"] for mask in entry["segmentations"] if mask), (1, 1))
    return np.stack(
        [decode_rle(mask) if mask else np.zeros(shape, np.bool_) for mask in entry["segmentations"]]
    )


def _mean_area(volume: np.ndarray) -> float:
    areas = [frame.sum() for frame in volume if frame.any()]
    return float(np.mean(areas)) if areas else 0.0


def _overlap(found: np.ndarray, truth: np.ndarray) -> float:
    if not found.any() or not truth.any():
        return 0.0
    return float((found & truth).sum() / (found | truth).sum())


def _hidden(entry: dict[str, Any]) -> float:
    shares = sorted((OCCLUSION[label] for label in entry["occlusion"] if label), reverse=True)
    half = shares[: math.ceil(len(shares) / 2)]
    return sum(half) / len(half) if half else 0.0


def _ignored(entry: dict[str, Any], limits: Range) -> bool:
    area, hidden = entry["area"], _hidden(entry)
    fits = limits.area[0] <= area <= limits.area[1] and limits.occlusion[0] <= hidden <= limits.occlusion[1]
    return bool(entry["iscrowd"]) or not fits


def _greedy(
    overlaps: np.ndarray, truth: list[dict[str, Any]], ignored: list[bool], threshold: float
) -> list[int | None]:
    """Return the index of the instance of each result, best score first."""
    free = [True] * len(truth)
    chosen: list[int | None] = []
    for row in overlaps:
        best = None
        for counting in (True, False):
            for g in range(len(truth)):
                able = (free[g] or truth[g]["iscrowd"]) and row[g] >= threshold and ignored[g] is not counting
                if able and (best is None or row[g] >= row[best]):
                    best = g
            if best is not None:
                break
        if best is not None:
            free[best] = False
        chosen.append(best)
    return chosen


Cell = tuple[list[dict[str, Any]], list[dict[str, Any]], np.ndarray]


def _cells(gt: dict[str, Any], results: list[dict[str, Any]]) -> dict[int, list[Cell]]:
    """Return instances, results and overlaps of each class, by video."""
    for entry in (*gt["annotations"], *results):
        entry["volume"] = _volume(entry)
        entry["area"] = _mean_area(entry["volume"])
    cells: dict[int, list[Cell]] = {}
    for category in (entry["id"] for entry in gt["categories"]):
        for video in sorted(entry["id"] for entry in gt["videos"]):
            truth, found = (
                [entry for entry in entries if (entry["video_id"], entry["category_id"]) == (video, category)]
                for entries in (gt["annotations"], results)
            )
            found = sorted(found, key=lambda entry: -entry["score"])[: LIMITS[-1]]
            overlaps = [[_overlap(d["volume"], g["volume"]) for g in truth] for d in found]
            cells.setdefault(category, []).append(
                (truth, found, np.array(overlaps).reshape(len(found), len(truth)))
            )
    return cells


def _slowly(cells: list[Cell], limits: Range, threshold: float) -> tuple[np.ndarray, list[float]]:
    """Return precision at 101 recalls with the highest limit, and recall with each limit."""
    entries: list[tuple[float, int, str]] = []
    instances = 0
    for truth, found, overlaps in cells:
        ignored = [_ignored(entry, limits) for entry in truth]
        instances += ignored.count(False)
        for place, (entry, g) in enumerate(
            zip(found, _greedy(overlaps, truth, ignored, threshold), strict=True)
        ):
            outside = not limits.area[0] <= entry["area"] <= limits.area[1]
            if g is not None and ignored[g]:
                fate = "ignored"
            elif g is not None and truth[g]["id"] != 0:
                fate = "hit"
            else:
                fate = "ignored" if outside else "miss"
            entries.append((entry["score"], place, fate))
    if not instances:
        return np.full(101, -1.0), [-1.0] * len(LIMITS)
    recalls = [
        sum(fate == "hit" for _, place, fate in entries if place < limit) / instances for limit in LIMITS
    ]
    points, hits, misses = [], 0, 0
    for _, _, fate in sorted(entries, key=lambda entry: -entry[0]):
        hits, misses = hits + (fate == "hit"), misses + (fate == "miss")
        points.append((hits / instances, hits / (hits + misses + np.spacing(1))))
    precisions = [max((p for r, p in points if r >= least), default=0.0) for least in np.linspace(0, 1, 101)]
    return np.array(precisions), recalls


@settings(max_examples=40)
@given(seed=st.integers(0, 10**6))
def test_equals_the_rules_written_out(made: Callable[[int], tuple[Path, Path]], seed: int) -> None:
    paths = made(seed)
    gt, results = (json.loads(path.read_text()) for path in paths)
    dataset = read_dataset(paths[0])
    scores = score(dataset, read_predictions(paths[1], dataset), "ovis")
    cells = _cells(gt, results)
    for k, category in enumerate(sorted(cells)):
        for a, limits in enumerate(RANGES["ovis"]):
            for t in (0, 4, 9):
                precision, recall = _slowly(cells[category], limits, IOU_THRESHOLDS[t])
                np.testing.assert_allclose(scores.precision[t, :, k, a], precision, atol=1e-12)
                assert scores.recall[t, k, a].tolist() == pytest.approx(recall, abs=1e-12)


def test_no_results_at_all(official: Path) -> None:
    summary = score(read_dataset(official / "gt.json"), []).summary
    assert set(summary.values()) == {0.0}


def test_refuses_what_cannot_be_scored(official: Path, tmp_path: Path) -> None:
    gt = json.loads((official / "gt.json").read_text())
    path = tmp_path / "gt.json"
    path.write_text(json.dumps(gt | {"annotations": None}))
    with pytest.raises(DataError, match="has no annotations to score against"):
        score(read_dataset(path), [])
    for entry in gt["annotations"]:
        del entry["occlusion"]
    path.write_text(json.dumps(gt))
    with pytest.raises(DataError, match="use --metric ytvis"):
        score(read_dataset(path), [], "ovis")


THRESHOLDS = np.array([0.5, 0.6, 1.0])
A = 2


def _fates(
    overlaps: np.ndarray,
    threshold: float,
    ignored: np.ndarray,
    crowd: np.ndarray,
    outside: np.ndarray,
    nameless: np.ndarray,
) -> list[str]:
    free = [True] * len(crowd)
    fates = []
    for d, row in enumerate(overlaps):
        # Of equals the last is matched, and instances that count before ignored ones.
        able = [g for g in range(len(crowd)) if (free[g] or crowd[g]) and row[g] >= min(threshold, 1 - 1e-10)]
        g = max(able, key=lambda g: (not ignored[g], row[g], g), default=None)
        if g is not None:
            free[g] = False
        if g is not None and ignored[g]:
            fates.append("aside")
        elif g is not None and not nameless[g]:
            fates.append("hit")
        else:
            fates.append("aside" if outside[d] else "miss")
    return fates


@settings(max_examples=150)
@given(data=st.data(), D=st.integers(0, 5), G=st.integers(0, 4))
def test_matching_equals_one_result_at_a_time(data: st.DataObject, D: int, G: int) -> None:
    def flags(*shape: int) -> np.ndarray:
        return data.draw(arrays(np.bool_, shape))

    overlaps = data.draw(arrays(np.float64, (D, G), elements=st.sampled_from([0.0, 0.5, 0.55, 0.6, 1.0])))
    ignored, crowd, outside, nameless = flags(A, G), flags(G), flags(A, D), flags(G)
    hit, miss = match(overlaps, THRESHOLDS, ignored, crowd, outside, nameless)
    for a in range(A):
        for t, threshold in enumerate(THRESHOLDS):
            fates = _fates(overlaps, threshold, ignored[a], crowd, outside[a], nameless)
            assert hit[a, t].tolist() == [fate == "hit" for fate in fates]
            assert miss[a, t].tolist() == [fate == "miss" for fate in fates]
