from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from idol_deploy.config import coco_r50
from idol_deploy.data.faults import Fault
from idol_deploy.data.samples import Sample
from idol_deploy.data.still_pairs import StillPairs
from idol_deploy.data.synthetic import SHAPES, make_stills
from idol_runtime.errors import DataError

if TYPE_CHECKING:
    from pathlib import Path

BASE = replace(coco_r50(), classes=SHAPES)
PLAIN = replace(
    BASE,
    train=replace(BASE.train, min_sizes=(60,), max_size=80, crop_probability=0.0, flip_probability=0.0),
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    make_stills(tmp_path, images=3, size=(60, 80), shapes=3)
    return tmp_path


def _open(folder: Path, *, strict: bool = False) -> StillPairs:
    return StillPairs.open(folder / "instances.json", folder / "JPEGImages", PLAIN, strict=strict)


def _edit(folder: Path, **changes: Any) -> None:
    """Changes the annotations of image 1."""
    path = folder / "instances.json"
    content = json.loads(path.read_text())
    for annotation in content["annotations"]:
        if annotation["image_id"] == 1:
            annotation.update(changes)
    path.write_text(json.dumps(content))


def test_boxes_are_those_of_the_annotations(folder: Path) -> None:
    _edit(folder, bbox=[10, 5, 60.5, 100])
    sample = _open(folder, strict=True).load(0, np.random.default_rng(0))
    assert isinstance(sample, Sample)
    for frame in (sample.key, sample.reference):
        np.testing.assert_array_equal(frame.boxes_xyxy, [[10, 5, 70.5, 60]] * len(sample.labels))


def test_images_with_crowds_alone_are_dropped(folder: Path) -> None:
    _edit(folder, iscrowd=1)
    assert len(_open(folder, strict=True)) == 2


def test_missing_and_broken_images(folder: Path) -> None:
    (folder / "JPEGImages" / "000000000001.jpg").unlink()
    (folder / "JPEGImages" / "000000000002.jpg").write_bytes(b"\xff\xd8\xff")
    source = _open(folder)
    assert source.log.counts == {"missing frame": 1}
    assert len(source) == 2
    found = source.load(0, np.random.default_rng(0))
    assert isinstance(found, Fault)
    assert (found.kind, found.where) == ("unreadable image", "image 2")
    with pytest.raises(DataError, match=r"^image 1: there is no .*000000000001.jpg; copy it there"):
        _open(folder, strict=True)


def test_classes_that_are_not_in_the_list(folder: Path) -> None:
    path = folder / "instances.json"
    content = json.loads(path.read_text())
    for i, annotation in enumerate(content["annotations"]):
        annotation["category_id"] = 1 + (i == 0)
    path.write_text(json.dumps(content))
    config = replace(PLAIN, classes=("cat", "disc"))
    source = StillPairs.open(path, folder / "JPEGImages", config)
    assert source.log.counts == {"class 'square' is not in the list": 1}
    sample = source.load(0, np.random.default_rng(0))
    assert isinstance(sample, Sample)
    assert sample.labels.tolist() == [1, 1]
    assert len(sample.key.masks) == 2
    boxes = [annotation["bbox"] for annotation in content["annotations"][1:3]]
    expected = [[x, y, x + width, y + height] for x, y, width, height in boxes]
    np.testing.assert_array_equal(sample.key.boxes_xyxy, expected)
