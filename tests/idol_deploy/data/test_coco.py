import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from idol_deploy.data.coco import read_coco
from idol_deploy.data.faults import FaultLog
from idol_deploy.data.rle import expand_rle
from idol_runtime.errors import DataError
from moving_shapes import make_stills

File = dict[str, Any]


@pytest.fixture
def file(tmp_path: Path) -> File:
    made = make_stills(tmp_path, images=2, size=(40, 60), shapes=2)
    content: File = json.loads(made.annotations.read_text())
    return content


def _write(tmp_path: Path, file: File) -> Path:
    path = tmp_path / "changed.json"
    path.write_text(json.dumps(file))
    return path


def test_polygons_boxes_and_crowds(tmp_path: Path, file: File) -> None:
    first, second = file["annotations"][:2]
    first |= {
        "segmentation": [[10, 5, 20, 5, 20, 15, 10, 15], [0, 0, 5, 0, 5, 5, 0, 5]],
        "bbox": [-3, 2, 30, 20],
    }
    second |= {"iscrowd": 1, "segmentation": "anything"}
    log = FaultLog(strict=True)
    still = read_coco(_write(tmp_path, file), log).stills[0]
    assert dict(log.counts) == {"crowd": 1}
    assert "annotation 2: it is a crowd" in log.summary()[0]
    assert still.annotation_ids == (1,)
    np.testing.assert_array_equal(still.boxes_xyxy, [[0, 2, 27, 22]])
    expected = np.zeros((40, 60), bool)
    expected[5:15, 10:20] = expected[:5, :5] = True
    np.testing.assert_array_equal(expand_rle(still.masks[0], still.size), expected)


FAULTS: dict[str, tuple[str, Callable[[dict[str, Any]], object]]] = {
    "no box": ("fields missing or of another type", lambda a: a.pop("bbox")),
    "text": ("fields missing or of another type", lambda a: a.update(segmentation="abc")),
    "image": ("unknown image", lambda a: a.update(image_id=77)),
    "category": ("unknown category", lambda a: a.update(category_id=77)),
    "flat box": ("box without area", lambda a: a.update(bbox=[3, 4, 5, 0])),
    "far box": ("box without area", lambda a: a.update(bbox=[60, 4, 5, 5])),
    "huge box": ("box without area", lambda a: a.update(bbox=[1e308, 4, 1e308, 5])),
    "size": ("broken mask", lambda a: a["segmentation"].update(size=[41, 60])),
    "garbage": ("broken mask", lambda a: a["segmentation"].update(counts="~~~~")),
    "short": ("broken mask", lambda a: a["segmentation"].update(counts="0100")),
    "point": ("broken mask", lambda a: a.update(segmentation=[[1, 2]])),
    "far": ("broken mask", lambda a: a.update(segmentation=[[0, 0, 1e30, 0, 5, 5]])),
    "box alone": ("no mask", lambda a: a.pop("segmentation")),
    "no polygon": ("no mask", lambda a: a.update(segmentation=[])),
    "null": ("no mask", lambda a: a.update(segmentation=None)),
    "empty": ("empty mask", lambda a: a["segmentation"].update(counts=[40 * 60])),
}


@pytest.mark.parametrize("name", FAULTS)
def test_faults_are_counted_or_refused(tmp_path: Path, file: File, name: str) -> None:
    kind, break_ = FAULTS[name]
    break_(file["annotations"][1])
    path, log = _write(tmp_path, file), FaultLog()
    dataset = read_coco(path, log)
    assert dict(log.counts) == {kind: 1}
    assert f"{path}: annotation" in log.summary()[0]
    assert sum(map(len, dataset.stills)) == len(file["annotations"]) - 1
    with pytest.raises(DataError, match=f"{path.name}: annotation (number 1|2): "):
        read_coco(path, FaultLog(strict=True))


@pytest.mark.parametrize("key", ["images", "categories"])
def test_an_id_twice_is_refused(tmp_path: Path, file: File, key: str) -> None:
    file[key].append(file[key][0])
    with pytest.raises(
        DataError, match=r"(image|category) id 1 is used twice; give each (image|category) its own id"
    ):
        read_coco(_write(tmp_path, file), FaultLog())


def test_a_file_of_another_format_is_refused(tmp_path: Path, file: File) -> None:
    file["videos"] = file.pop("images")
    with pytest.raises(DataError, match="is no annotation file"):
        read_coco(_write(tmp_path, file), FaultLog())
