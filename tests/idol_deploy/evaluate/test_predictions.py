"""Results files: order, messages about broken ones, and the archive."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import pytest

from idol_deploy.data.ytvis import VisDataset, read_dataset
from idol_deploy.evaluate.predictions import by_cell, read_predictions, write_submission
from idol_runtime.errors import DataError


@pytest.fixture(scope="module")
def dataset(official: Path) -> VisDataset:
    return read_dataset(official / "gt.json")


def test_equal_scores_keep_their_order(dataset: VisDataset, tmp_path: Path) -> None:
    entry = {"video_id": 1, "category_id": 3, "segmentations": [None] * 8}
    path = tmp_path / "pred.json"
    path.write_text(json.dumps([entry | {"score": score} for score in (0.5, 0.9, 0.5, 1)]))
    predictions = read_predictions(path, dataset)
    ((key, cell),) = by_cell(predictions).items()
    assert key == (1, 3)
    assert [predictions.index(result) for result in cell] == [3, 1, 0, 2]
    assert [result.area for result in cell] == [0.0] * 4


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"video_id": 5}, r"result number 1: there is no video 5 in .*gt.json"),
        ({"category_id": 4}, r"there is no category 4 in .*; it has 1, 2, 3"),
        ({"segmentations": [None] * 7}, "7 segmentations for the 8 frames of video 1"),
        ({"score": None}, r"result number 1: Expected `float`, got `null` - at `\$.score`"),
        (
            {"segmentations": [{"size": [2, 2], "counts": "04"}, *[None] * 7]},
            "2x2 .* but its video is 360x640",
        ),
    ],
)
def test_a_broken_result_is_named(
    dataset: VisDataset, tmp_path: Path, changed: dict[str, object], message: str
) -> None:
    entry: dict[str, object] = {"video_id": 1, "category_id": 3, "score": 0.5, "segmentations": [None] * 8}
    path = tmp_path / "pred.json"
    path.write_text(json.dumps([entry, entry | changed]))
    with pytest.raises(DataError, match=message):
        read_predictions(path, dataset)


def test_no_list(dataset: VisDataset, tmp_path: Path) -> None:
    path = tmp_path / "pred.json"
    path.write_text("{}")
    with pytest.raises(DataError, match="is no results file: Expected `array`, got `object`"):
        read_predictions(path, dataset)


def test_results_under_the_servers_name(tmp_path: Path) -> None:
    results, first, second = (tmp_path / name for name in ("mine.json", "a.zip", "b.zip"))
    results.write_text("[1]" * 10**5)
    for path in (first, second):
        write_submission(path, results)
    with zipfile.ZipFile(first) as archive:
        assert archive.namelist() == ["results.json"]
        assert archive.read("results.json") == results.read_bytes()
    assert first.read_bytes() == second.read_bytes()
    assert first.stat().st_size < results.stat().st_size / 10


def test_no_results(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="No such file"):
        write_submission(tmp_path / "a.zip", tmp_path / "gone.json")
    assert not list(tmp_path.iterdir())
