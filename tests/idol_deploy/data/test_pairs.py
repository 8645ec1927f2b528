"""Samples of videos and images: masks, boxes and identities match the pictures, and faults are logged or refused."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from idol_deploy.config import preset
from idol_deploy.data.faults import Fault
from idol_deploy.data.pairs import draw_frames, open_pairs
from idol_deploy.data.samples import PairSource, Sample
from idol_runtime.errors import DataError
from moving_shapes import SHAPES, draw_clip, make_stills, make_videos

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from idol_deploy.config import IdolConfig
    from idol_deploy.data.samples import AnnotatedFrame
    from moving_shapes import MadeDataset


def _plain(config: IdolConfig) -> IdolConfig:
    """A configuration for shapes, without augmentation."""
    train = replace(config.train, min_sizes=(60,), max_size=80, crop_probability=0.0, flip_probability=0.0)
    return replace(config, classes=SHAPES, train=train)


VIDEOS, STILLS = _plain(preset("ytvis19_r50")), _plain(preset("coco_r50"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    make_videos(tmp_path, videos=2, frames=3, size=(60, 80), shapes=3)
    return tmp_path


def _open(folder: Path, *, strict: bool = False) -> PairSource:
    return open_pairs(folder / "instances.json", folder / "JPEGImages", VIDEOS, strict=strict)


def _change(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "instances.json").read_text())
    return content


def _save(folder: Path, content: dict[str, Any]) -> None:
    (folder / "instances.json").write_text(json.dumps(content))


def test_frames_are_drawn_as_published() -> None:
    frames, most, rng = (0, 1, 2, 5), 3, np.random.default_rng(0)
    expected: Counter[tuple[int, int]] = Counter()
    for first in frames:
        near = [frame for frame in frames if frame != first and abs(frame - first) <= most]
        for second in near:
            expected[min(first, second), max(first, second)] += 1 / len(frames) / len(near)
    drawn = Counter(draw_frames(frames, most, rng) for _ in range(4000))
    assert drawn.keys() == expected.keys()
    assert all(abs(drawn[pair] / 4000 - share) < 0.03 for pair, share in expected.items())
    assert draw_frames((4,), 10, rng) == (4, 4)
    assert draw_frames((0, 30), 10, rng) in {(0, 0), (30, 30)}


def test_the_key_frame_comes_first_and_an_absent_instance_is_empty(folder: Path) -> None:
    content = _change(folder)
    gone = content["annotations"][0]["segmentations"]
    gone[0] = gone[1] = None
    _save(folder, content)
    source, clip = _open(folder, strict=True), draw_clip(3, (60, 80), 3, seed=1)
    kinds = set()
    for seed in range(30):
        sample = source.load(0, np.random.default_rng(seed))
        assert isinstance(sample, Sample)
        key, reference = (int(sample.name.split()[place]) for place in (3, 5))
        assert key < reference
        kinds.add((key, reference))
        # The first instance is absent from frames 0 and 1, so it is listed only with frame 2.
        listed = [0, 1, 2] if reference == 2 else [1, 2]
        np.testing.assert_array_equal(sample.identities, listed)
        np.testing.assert_array_equal(sample.labels, np.array(clip.labels)[listed])
        for t, frame in ((key, sample.key), (reference, sample.reference)):
            expected = clip.masks[listed, t]
            if t < 2 and 0 in listed:
                expected = np.concatenate([np.zeros_like(expected[:1]), expected[1:]])
            np.testing.assert_array_equal(frame.masks, expected)
            np.testing.assert_array_equal(frame.present, expected.any((1, 2)))
            assert np.abs(frame.image.astype(int) - clip.frames[t]).mean() < 8
    assert kinds == set(itertools.combinations(range(3), 2))


def test_a_crowd_is_left_out_and_counted(folder: Path) -> None:
    content = _change(folder)
    content["annotations"][1]["iscrowd"] = 1
    _save(folder, content)
    source = _open(folder, strict=True)
    assert source.identities == 5
    assert source.log.counts == {"crowd": 1}
    assert "annotation 2: it is a crowd" in source.log.summary()[0]
    assert "set its iscrowd to 0" in source.log.summary()[0]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (
            lambda content: [a.update(iscrowd=1) for a in content["annotations"]],
            "6 x crowd, first .*1: it is",
        ),
        (lambda content: content.update(annotations=[]), "it has no annotations; give a file"),
        (
            lambda content: [a.update(segmentations=[None] * 3) for a in content["annotations"]],
            "6 x never seen",
        ),
    ],
)
def test_videos_without_instances_are_refused(
    folder: Path, change: Callable[[dict[str, Any]], object], reason: str
) -> None:
    content = _change(folder)
    change(content)
    _save(folder, content)
    with pytest.raises(DataError, match=f"no instance is left to train on; {reason}"):
        _open(folder)


def test_an_instance_on_missing_frames_alone_is_counted(folder: Path) -> None:
    content = _change(folder)
    content["annotations"][0]["segmentations"][1:] = [None, None]
    _save(folder, content)
    (folder / "JPEGImages" / "0001" / "00000.jpg").unlink()
    assert _open(folder).log.counts == {"missing frame": 1, "never seen": 1}


def test_missing_frames_are_counted_and_never_drawn(folder: Path) -> None:
    (folder / "JPEGImages" / "0001" / "00001.jpg").unlink()
    source = _open(folder)
    assert source.log.counts == {"missing frame": 1}
    assert "video 1, frame 1: there is no " in source.log.summary()[0]
    names = {source.load(0, np.random.default_rng(seed)).name for seed in range(20)}  # type: ignore[union-attr]
    assert names == {"video 1, frames 0 and 2"}
    with pytest.raises(DataError, match=r"^video 1, frame 1: there is no .*00001.jpg; copy it there"):
        _open(folder, strict=True)


def test_a_video_without_frames_is_left_out(folder: Path) -> None:
    for path in (folder / "JPEGImages" / "0001").iterdir():
        path.unlink()
    assert len(_open(folder)) == 1


def test_the_wrong_folder_is_named(folder: Path) -> None:
    with pytest.raises(DataError, match=r"none of the 6 annotated frames is below .*; give the folder"):
        open_pairs(folder / "instances.json", folder, VIDEOS)


def test_backslashes_are_separators_of_files_that_exist(folder: Path) -> None:
    content = _change(folder)
    for video in content["videos"]:
        video["file_names"] = [name.replace("/", "\\") for name in video["file_names"]]
    _save(folder, content)
    source = _open(folder, strict=True)
    assert isinstance(source.load(0, np.random.default_rng(0)), Sample)
    odd = folder / "JPEGImages" / content["videos"][0]["file_names"][0]
    (folder / "JPEGImages" / "0001" / "00000.jpg").rename(odd)
    assert _open(folder, strict=True).log.counts == {}


def test_classes_that_are_not_in_the_list(folder: Path) -> None:
    content = _change(folder)
    for i, annotation in enumerate(content["annotations"]):
        annotation["category_id"] = 3 if i == 1 else 1
    _save(folder, content)
    config = replace(VIDEOS, classes=("disc", "square"))
    source = open_pairs(folder / "instances.json", folder / "JPEGImages", config)
    assert source.log.counts == {"class 'triangle' is not in the list": 1}
    assert "annotation 2: the network has no class 'triangle'" in source.log.summary()[0]
    assert source.identities == 5
    with pytest.raises(DataError, match="annotation 2: the network has no class 'triangle'; add it"):
        open_pairs(folder / "instances.json", folder / "JPEGImages", config, strict=True)
    with pytest.raises(DataError, match=r"none of its categories \(disc, square, triangle\) is a class"):
        open_pairs(folder / "instances.json", folder / "JPEGImages", replace(VIDEOS, classes=("cat",)))


def test_faults_of_the_annotations_are_logged_with_the_rest(folder: Path) -> None:
    content = _change(folder)
    content["annotations"][0]["segmentations"] = [None] * 3
    content["annotations"][2]["segmentations"][1]["counts"] = "~~~"
    content["annotations"][3]["segmentations"][0]["size"] = [80, 60]
    _save(folder, content)
    log = _open(folder).log
    assert log.counts == {"never seen": 1, "broken mask": 2}
    assert any("annotation 1" in line for line in log.summary())
    assert any("annotation 3" in line for line in log.summary())
    with pytest.raises(DataError, match="annotation 1"):
        _open(folder, strict=True)


def test_a_file_without_annotations_is_refused(folder: Path) -> None:
    content = _change(folder)
    del content["annotations"]
    _save(folder, content)
    with pytest.raises(DataError, match="has no annotations; train on a file that has"):
        _open(folder)


def test_empty_videos_stay_unless_dropped(folder: Path) -> None:
    content = _change(folder)
    content["annotations"] = [a for a in content["annotations"] if a["video_id"] == 2]
    _save(folder, content)
    source = _open(folder, strict=True)
    sample = source.load(0, np.random.default_rng(0))
    assert isinstance(sample, Sample)
    assert sample.key.masks.shape == (0, 60, 80)
    config = replace(VIDEOS, train=replace(VIDEOS.train, drop_empty=True))
    source = open_pairs(folder / "instances.json", folder / "JPEGImages", config, strict=True)
    assert (len(source), source.log.counts) == (1, {"video without instances": 1})


@pytest.mark.parametrize("fault", ["cut", "text", "size", "deep"])
def test_a_broken_image_is_a_fault_with_a_name(folder: Path, fault: str) -> None:
    for path in (folder / "JPEGImages" / "0001").iterdir():
        if fault == "cut":
            path.write_bytes(path.read_bytes()[:300])
        elif fault == "text":
            path.write_text("not an image")
        elif fault == "size":
            Image.new("RGB", (80, 61)).save(path)
        else:
            Image.new("I;16", (80, 60)).save(path, format="PNG")
    found = _open(folder).load(0, np.random.default_rng(0))
    assert isinstance(found, Fault)
    assert found.where.startswith("video 1, frame ")
    assert ".jpg" in found.detail
    assert found.kind == ("image of another size" if fault == "size" else "unreadable image")


@pytest.fixture
def stills(tmp_path: Path) -> Path:
    make_stills(tmp_path, images=3, size=(60, 80), shapes=3)
    return tmp_path


def _open_stills(stills: Path, *, strict: bool = False) -> PairSource:
    return open_pairs(stills / "instances.json", stills / "JPEGImages", STILLS, strict=strict)


def _edit_stills(stills: Path, **changes: Any) -> None:
    """Change the annotations of image 1."""
    path = stills / "instances.json"
    content = json.loads(path.read_text())
    for annotation in content["annotations"]:
        if annotation["image_id"] == 1:
            annotation.update(changes)
    path.write_text(json.dumps(content))


def test_boxes_are_those_of_the_annotations(stills: Path) -> None:
    _edit_stills(stills, bbox=[10, 5, 60.5, 100])
    sample = _open_stills(stills, strict=True).load(0, np.random.default_rng(0))
    assert isinstance(sample, Sample)
    for frame in (sample.key, sample.reference):
        np.testing.assert_array_equal(frame.boxes_xyxy, [[10, 5, 70.5, 60]] * len(sample.labels))


def test_images_with_crowds_alone_are_dropped(stills: Path) -> None:
    _edit_stills(stills, iscrowd=1)
    source = _open_stills(stills, strict=True)
    assert len(source) == 2
    assert source.log.counts == {"crowd": 3, "image without instances": 1}


@pytest.mark.parametrize("drop_empty", [True, False])
@pytest.mark.parametrize("change", [{"iscrowd": 1}, {"segmentation": None}])
def test_images_without_instances_are_refused(
    stills: Path, change: dict[str, object], drop_empty: bool
) -> None:
    path = stills / "instances.json"
    content = json.loads(path.read_text())
    for annotation in content["annotations"]:
        annotation.update(change)
    path.write_text(json.dumps(content))
    config = replace(STILLS, train=replace(STILLS.train, drop_empty=drop_empty))
    with pytest.raises(DataError, match=r"no instance is left to train on; \d+ x (crowd|no mask), first "):
        open_pairs(path, stills / "JPEGImages", config)


def test_missing_and_broken_images(stills: Path) -> None:
    (stills / "JPEGImages" / "000000000001.jpg").unlink()
    (stills / "JPEGImages" / "000000000002.jpg").write_bytes(b"\xff\xd8\xff")
    source = _open_stills(stills)
    assert source.log.counts == {"missing frame": 1}
    assert len(source) == 2
    found = source.load(0, np.random.default_rng(0))
    assert isinstance(found, Fault)
    assert (found.kind, found.where) == ("unreadable image", "image 2")
    with pytest.raises(DataError, match=r"^image 1: there is no .*000000000001.jpg; copy it there"):
        _open_stills(stills, strict=True)


def test_classes_of_images_that_are_not_in_the_list(stills: Path) -> None:
    path = stills / "instances.json"
    content = json.loads(path.read_text())
    for i, annotation in enumerate(content["annotations"]):
        annotation["category_id"] = 1 + (i == 0)
    path.write_text(json.dumps(content))
    config = replace(STILLS, classes=("cat", "disc"))
    source = open_pairs(path, stills / "JPEGImages", config)
    assert source.log.counts == {"class 'square' is not in the list": 1}
    sample = source.load(0, np.random.default_rng(0))
    assert isinstance(sample, Sample)
    assert sample.labels.tolist() == [1, 1]
    assert len(sample.key.masks) == 2
    boxes = [annotation["bbox"] for annotation in content["annotations"][1:3]]
    expected = [[x, y, x + width, y + height] for x, y, width, height in boxes]
    np.testing.assert_array_equal(sample.key.boxes_xyxy, expected)


def _colour(frame: AnnotatedFrame, i: int) -> np.ndarray:
    """Return the median colour of an instance."""
    return np.median(frame.image[frame.masks[i]], axis=0)


def _check_frame(frame: AnnotatedFrame, *, own_boxes: bool) -> None:
    height, width = frame.image.shape[:2]
    assert frame.image.dtype == np.uint8
    assert frame.masks.shape[1:] == (height, width)
    np.testing.assert_array_equal(frame.present, frame.masks.any((1, 2)))
    assert (frame.masks.sum(0) <= 1).all()
    for mask, box in zip(frame.masks[frame.present], frame.boxes_xyxy[frame.present], strict=True):
        rows, columns = mask.any(1).nonzero()[0], mask.any(0).nonzero()[0]
        tight = [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
        if own_boxes:
            np.testing.assert_array_equal(box, tight)
        else:  # box of the whole shape, partly outside the crop, with an error of one source pixel at most
            assert (box[:2] <= np.array(tight[:2]) + 3).all()
            assert (box[2:] >= np.array(tight[2:]) - 3).all()
        assert (box >= 0).all()
        assert (box <= [width, height, width, height]).all()


def test_masks_boxes_and_identities_are_those_of_the_shapes(shapes: tuple[MadeDataset, IdolConfig]) -> None:
    made, config = shapes
    source = open_pairs(made.annotations, made.frames, config, strict=True)
    found, sizes, absent = 0, set(), 0
    for seed in range(40):
        sample = source.load(seed % len(source), np.random.default_rng(seed))
        assert isinstance(sample, Sample)
        for frame in (sample.key, sample.reference):
            _check_frame(frame, own_boxes=not config.train.still_images)
            sizes.add(frame.image.shape)
            absent += int((~frame.present).sum())
        assert set(sample.labels.tolist()) <= {0, 1, 3}
        for i in (sample.key.present & sample.reference.present).nonzero()[0]:
            if min(sample.key.masks[i].sum(), sample.reference.masks[i].sum()) > 400:
                colours = _colour(sample.key, i), _colour(sample.reference, i)
                # JPEG blurs colours at edges; two shapes differ by far more.
                np.testing.assert_allclose(*colours, atol=30)
                assert colours[0].max() > 180
                found += 1
    assert found > 60
    assert len(sizes) > 20
    assert absent > 0


def test_videos_number_their_instances_and_images_do_not(shapes: tuple[MadeDataset, IdolConfig]) -> None:
    made, config = shapes
    source = open_pairs(made.annotations, made.frames, config, strict=True)
    seen = set()
    for index in range(len(source)):
        for seed in range(8):
            sample = source.load(index, np.random.default_rng(seed))
            assert isinstance(sample, Sample)
            seen |= set(sample.identities.tolist())
    assert seen == (set(range(source.identities)) or {-1})
    assert source.identities == (0 if config.train.still_images else 12)


@pytest.mark.pseudo_ytvis
def test_real_frames_read_without_a_complaint(pseudo_ytvis) -> None:
    config = replace(preset("ytvis19_r50"), classes=("person", "dog", "sports_ball", "car", "bed"))
    source = open_pairs(pseudo_ytvis / "instances.json", pseudo_ytvis / "JPEGImages", config, strict=True)
    assert (len(source), source.identities) == (9, 63)
    for index in range(len(source)):
        sample = source.load(index, np.random.default_rng(index))
        assert isinstance(sample, Sample)
        assert max(sample.key.image.shape) <= 768
