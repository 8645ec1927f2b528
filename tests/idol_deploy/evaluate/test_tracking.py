"""Equal to TrackEval's own reading of the same files."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from idol_deploy.data.ytvis import VisDataset, read_dataset
from idol_deploy.evaluate import tracking
from idol_deploy.evaluate.predictions import read_predictions
from idol_deploy.evaluate.tracking import CLASS_MEAN, DETECTION_MEAN, score_tracking
from idol_runtime.errors import DataError, MissingDependencyError
from idol_runtime.rle import encode_rle


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
        assert values == pytest.approx(theirs, abs=1e-12)


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
