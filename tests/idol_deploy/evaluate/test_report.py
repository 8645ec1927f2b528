"""Scores as a table and as JSON."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from idol_deploy.data.ytvis import read_dataset
from idol_deploy.evaluate.average_precision import Metric, score
from idol_deploy.evaluate.predictions import read_predictions
from idol_deploy.evaluate.reappearance import Reappearance
from idol_deploy.evaluate.report import document, table
from idol_deploy.evaluate.tracking import CLASS_MEAN, DETECTION_MEAN


@pytest.mark.parametrize("metric", ["ytvis", "ovis"])
def test_the_document_has_the_official_names(official: Path, metric: Metric) -> None:
    dataset = read_dataset(official / "gt.json")
    scores = score(dataset, read_predictions(official / "pred.json", dataset), metric, keep_overlaps=True)
    written = json.loads(json.dumps(document(scores)))
    expected = json.loads((official / f"{metric}_result.json").read_text())
    assert written["params"] == expected["params"]
    assert written["summary"].keys() == expected["summary"].keys()
    assert {key: entry.pop("name") for key, entry in written["per_category"].items()} == {
        "1": "person",
        "2": "dog",
        "3": "car",
    }
    assert [list(entry) for entry in written["per_category"].values()] == [
        list(entry) for entry in expected["per_category"].values()
    ]
    assert {key: value for key, value in expected["ious"].items() if value} == {
        key: value for key, value in written["ious"].items() if value
    }


def test_the_table_is_in_percent_but_for_counts_and_leaves_out_what_is_not_there(official: Path) -> None:
    dataset = read_dataset(official / "gt.json").subset({9})
    scores = score(dataset, [])
    five = {"HOTA": 0.25, "AssA": 0.5, "DetA": 0.125, "IDF1": 0.75, "IDSW": 3.0}
    tracking = {str(category.dataset_id): five for category in dataset.categories}
    lines = table(scores, tracking | {CLASS_MEAN: five, DETECTION_MEAN: five}).splitlines()
    assert lines[0].split() == ["AP", "AP50", "AP75", "APs", "APm", "APl"]
    assert set(lines[1].split()[1:]) == {"0.00", "-"}
    classes = [line.split() for line in lines[7:]]
    assert [row[0] for row in classes] == ["dog", "mean", "of"]
    assert classes[0][-5:] == ["25.00", "50.00", "12.50", "75.00", "3"]
    last = table(scores, None, Reappearance(7, 5, 4)).splitlines()[-1]
    assert [int(word) for word in last.replace(";", " ").split() if word.isdecimal()] == [4, 7, 3, 5]
