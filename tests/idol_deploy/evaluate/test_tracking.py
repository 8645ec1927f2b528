"""Scores equal TrackEval on the same files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from idol_deploy.data.ytvis import VisDataset, read_dataset
from idol_deploy.evaluate import tracking
from idol_deploy.evaluate.predictions import read_predictions
from idol_deploy.evaluate.tracking import CLASS_MEAN, DETECTION_MEAN, score_tracking
from idol_runtime.errors import DataError, MissingDependencyError
from idol_runtime.tracking.rle import encode_rle


@pytest.mark.parametrize("gt", ["gt", "gt_uncompressed_rle"])
def test_equals_trackeval(official: Path, gt: str) -> None:
    pytest.importorskip("trackeval", reason="TrackEval is not installed: pip install 'idol-deploy[evaluate]'")
    dataset = read_dataset(official / f"{gt}.json")
    scores = score_tracking(dataset, read_predictions(official / "pred.json", dataset))
    expected = json.loads((official / "trackeval_result.json").read_text())
    names = {str(category.dataset_id): category.name for category in dataset.categories}
    names |= {CLASS_MEAN: "cls_comb_cls_av", DETECTION_MEAN: "cls_comb_det_av"}
    assert scores.keys() == names.keys()
    for key, values in scores.items():
        theirs = {field: expected[names[key]][field] for field in ("HOTA", "AssA", "DetA", "IDF1")}
        assert values == pytest.approx(theirs | {"IDSW": values["IDSW"]}, abs=1e-12)


def test_identity_switches_are_counted_over_gaps_and_within_a_class(tmp_path: Path) -> None:
    pytest.importorskip("trackeval", reason="TrackEval is not installed: pip install 'idol-deploy[evaluate]'")
    left, right = (np.indices((8, 12))[1] // 6 == side for side in (0, 1))

    def track(category: int, *masks: np.ndarray | None) -> dict[str, Any]:
        rles = [None if mask is None else encode_rle(mask) for mask in masks]
        return {"video_id": 1, "category_id": category, "segmentations": rles}

    annotations = [
        track(category, *[mask] * 4) | {"id": 2 * category + number, "iscrowd": 0}
        for category in (1, 2)
        for number, mask in enumerate((left, right))
    ]
    results = [
        # The two of class 1 are exchanged after the second frame.
        track(1, left, left, right, right),
        track(1, right, right, left, left),
        # In class 2 one track changes after a frame without either; the other does not.
        track(2, left, None, None, None),
        track(2, None, None, left, left),
        track(2, right, right, right, right),
    ]
    files = [f"{t}.jpg" for t in range(4)]
    video = {"id": 1, "height": 8, "width": 12, "length": 4, "file_names": files}
    names = [{"id": i, "name": f"class {i}"} for i in (1, 2, 3)]
    gt, pred = tmp_path / "gt.json", tmp_path / "pred.json"
    gt.write_text(json.dumps({"videos": [video], "categories": names, "annotations": annotations}))
    pred.write_text(json.dumps([result | {"score": 0.5} for result in results]))
    dataset = read_dataset(gt)
    scores = score_tracking(dataset, read_predictions(pred, dataset))
    switches = {key: values["IDSW"] for key, values in scores.items()}
    assert switches == {"1": 2, "2": 1, "3": 0, CLASS_MEAN: 3, DETECTION_MEAN: 3}


def test_an_empty_mask_is_no_detection(official: Path, tmp_path: Path) -> None:
    pytest.importorskip("trackeval", reason="TrackEval is not installed: pip install 'idol-deploy[evaluate]'")
    dataset = read_dataset(official / "gt.json")
    results = json.loads((official / "pred.json").read_text())
    path = tmp_path / "pred.json"
    for result in results:
        height, width = dataset.video(result["video_id"]).size
        empty = encode_rle(np.zeros((height, width), np.bool_))
        result["segmentations"] = [empty if mask is None else mask for mask in result["segmentations"]]
    path.write_text(json.dumps(results))
    first = score_tracking(dataset, read_predictions(official / "pred.json", dataset))
    assert score_tracking(dataset, read_predictions(path, dataset)) == first


def test_what_is_needed(monkeypatch: pytest.MonkeyPatch, official: Path) -> None:
    with pytest.raises(DataError, match="has no annotations"):
        score_tracking(VisDataset(Path("gt.json"), (), (), annotated=False), [])
    monkeypatch.setitem(__import__("sys").modules, "trackeval", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'idol-deploy\[evaluate\]'"):
        tracking.load_trackeval()
