"""Annotation files with every form of mask, and the messages about broken ones."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from idol_deploy.data.faults import FaultLog
from idol_deploy.data.ytvis import class_names, read_dataset
from idol_runtime.errors import DataError
from idol_runtime.tracking.rle import encode_rle

SIZE = 4, 6


def _mask() -> np.ndarray:
    mask = np.zeros(SIZE, np.bool_)
    mask[1:3, 2:5] = True
    return mask


def _contents() -> dict[str, Any]:
    runs = {"size": [*SIZE], "counts": [9, 2, 2, 2, 2, 2, 5]}
    polygon = [[2.0, 1.0, 5.0, 1.0, 5.0, 3.0, 2.0, 3.0]]
    empty = encode_rle(np.zeros(SIZE, np.bool_))
    track = {"id": 7, "video_id": 2, "category_id": 5, "iscrowd": 1}
    track |= {"segmentations": [encode_rle(_mask()), runs, polygon, None, empty]}
    track |= {"areas": [10, 20, None, None, 0], "occlusion": ["slight_occlusion", *[None] * 4]}
    names = [f"v/{t}.jpg" for t in range(5)]
    other = {"id": 9, "video_id": 2, "category_id": 5, "segmentations": [None] * 5}
    return {
        "info": {},
        "videos": [{"id": 2, "height": SIZE[0], "width": SIZE[1], "length": 5, "file_names": names}],
        "categories": [{"id": 5, "name": "dog", "supercategory": "animal"}],
        "annotations": [track, other],
    }


@pytest.fixture
def written(tmp_path: Path) -> Callable[..., Path]:
    """A function that writes the file after a change."""

    def write(change: Callable[[dict[str, Any]], object] = lambda contents: None) -> Path:
        contents = _contents()
        change(contents)
        path = tmp_path / "instances.json"
        path.write_text(json.dumps(contents))
        return path

    return write


def test_reads_every_form_of_mask(written: Callable[..., Path]) -> None:
    dataset = read_dataset(written())
    (video,) = dataset.videos
    assert (video.size, len(video), video.files[1]) == (SIZE, 5, "v/1.jpg")
    assert [(category.dataset_id, category.name) for category in dataset.categories] == [(5, "dog")]
    track, never = dataset.tracks(2)
    for frame in (0, 1, 2):
        np.testing.assert_array_equal(track.masks.mask(frame), _mask())
    assert not track.masks.mask(3).any()
    assert track.masks.frames == (0, 1, 2)
    assert track.masks.counts[3:] == (None, None)
    assert track.masks.areas.tolist() == [6, 6, 6, 0, 0]
    assert (track.area, track.crowd, track.occlusion) == (15.0, True, (0.25, None, None, None, None))
    assert (never.masks.frames, never.area, never.crowd, never.occlusion) == ((), 0.0, False, None)


def test_areas_are_of_the_masks_where_the_file_gives_none(written: Callable[..., Path]) -> None:
    dataset = read_dataset(written(lambda contents: contents["annotations"][0].pop("areas")))
    assert dataset.tracks(2)[0].area == 6.0


def test_the_public_test_files_have_no_annotations(written: Callable[..., Path]) -> None:
    dataset = read_dataset(written(lambda contents: contents.update(annotations=None)))
    assert (dataset.annotated, dataset.tracks(2)) == (False, ())


def _set(**values: object) -> Callable[[dict[str, Any]], object]:
    return lambda contents: contents["annotations"][0].update(values)


def _mask_is(mask: object) -> Callable[[dict[str, Any]], object]:
    return _set(segmentations=[mask, *[None] * 4])


BROKEN = [
    (_set(video_id=3), "unknown video", "annotation 7: there is no video 3"),
    (_set(category_id=1), "unknown category", "annotation 7: there is no category 1"),
    (
        _set(segmentations=[None]),
        "another number of segmentations",
        "1 segmentations for the 5 frames of video 2",
    ),
    (
        _set(occlusion=["hidden", *[None] * 4]),
        "unknown occlusion",
        "occlusion 'hidden' is none of no_occlusion",
    ),
    (_set(id=9), "id used twice", "annotation 9: another annotation has this id"),
    (
        _set(category_id="dog"),
        "fields missing",
        r"annotation number 0: Expected `int`, got `str` - at `\$.category_id",
    ),
    (_mask_is({"size": [6, 4], "counts": "08"}), "broken mask", "frame 0 is 6x4 .* but its video is 4x6"),
    (_mask_is({"size": [*SIZE], "counts": "08"}), "broken mask", "frame 0 covers 8 pixels of 4x6"),
    (_mask_is({"size": [*SIZE], "counts": "é"}), "broken mask", "frame 0 is no compressed mask"),
    (_mask_is({"size": [*SIZE], "counts": [20, 5]}), "broken mask", "frame 0 covers 25 pixels of 4x6"),
    (_mask_is([[1.0, 2.0, 3.0, 4.0]]), "broken mask", "polygon of less than three points"),
]


@pytest.mark.parametrize(("change", "kind", "message"), BROKEN, ids=[message for *_, message in BROKEN])
def test_a_broken_annotation_is_refused_or_counted(
    written: Callable[..., Path], change: Callable[[dict[str, Any]], object], kind: str, message: str
) -> None:
    path = written(change)
    with pytest.raises(DataError, match=message) as raised:
        read_dataset(path)
    assert str(path) in str(raised.value)
    log = FaultLog()
    assert len(read_dataset(path, log).tracks(2)) == 1
    assert [(why.startswith(kind), count) for why, count in log.counts.items()] == [(True, 1)]


def test_an_instance_that_is_never_seen(written: Callable[..., Path]) -> None:
    with pytest.raises(DataError, match="annotation 9: it has no mask in any frame"):
        read_dataset(written(), allow_empty=False)
    log = FaultLog()
    read_dataset(written(), log, allow_empty=False)
    assert log.counts == {"never seen": 1}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda contents: contents["videos"][0].update(length=4), "video 2 has length 4 and 5 file names"),
        (
            lambda contents: contents["videos"].append(contents["videos"][0]),
            "video id 2 is used twice; give each",
        ),
        (
            lambda contents: contents["categories"].append(contents["categories"][0]),
            "category id 5 is used twice",
        ),
        (lambda contents: contents.pop("categories"), "missing required field `categories`"),
        (lambda contents: contents["videos"][0].update(width=0), r"at `\$.videos\[0\].width`"),
        (
            lambda contents: contents["videos"][0].update(width=2**33),
            r"`int` <= 65535 - at `\$.videos\[0\].width`",
        ),
        (lambda contents: contents["videos"][0].update(id=2**63), r"at `\$.videos\[0\].id`"),
        (
            lambda contents: contents["videos"][0].update(id=float("nan")),
            r"videos\[0\].id is NaN; write a finite",
        ),
    ],
)
def test_a_broken_file_is_refused(
    written: Callable[..., Path], change: Callable[[dict[str, Any]], object], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        read_dataset(written(change), FaultLog())


def test_no_file_and_half_a_file(written: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(DataError, match="No such file or directory; check the path"):
        read_dataset(tmp_path / "gone.json")
    path = written()
    path.write_text(path.read_text()[:-40])
    with pytest.raises(DataError, match=r"is not JSON: .*copy it again"):
        read_dataset(path)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_other_encodings_are_read(written: Callable[..., Path], encoding: str) -> None:
    path = written()
    path.write_bytes(path.read_text().encode(encoding))
    assert len(read_dataset(path).tracks(2)) == 2


@pytest.mark.parametrize("place", ["file", "annotation", "mask"])
def test_deep_values_are_refused(written: Callable[..., Path], place: str) -> None:
    path, deep = (
        written(lambda contents: contents.update(annotations=["DEEP"])),
        "[" * 100_000 + "]" * 100_000,
    )
    annotation = '{"id": 7, "video_id": 2, "category_id": 5, "segmentations": [' + deep + "]}"
    text = path.read_text().replace('"DEEP"', deep if place == "annotation" else annotation)
    path.write_text('{"info": ' + deep + "}" if place == "file" else text)
    with pytest.raises(DataError, match="nested too deeply"):
        read_dataset(path)


def test_ids_of_any_size(written: Callable[..., Path]) -> None:
    def enlarge(contents: dict[str, Any]) -> None:
        for entry in (*contents["videos"], *contents["categories"], *contents["annotations"]):
            entry |= {key: entry[key] + 2**40 for key in ("id", "video_id", "category_id") if key in entry}

    dataset = read_dataset(written(enlarge))
    assert [track.id - 2**40 for track in dataset.tracks(2 + 2**40)] == [7, 9]
    assert dataset.categories[0].dataset_id == 5 + 2**40


@pytest.mark.parametrize(
    ("size", "mask", "message"),
    [
        ((2**15, 2**15), [[1, 1, 5, 1, 5, 5]], "frames of 32768x32768 are too large"),
        ((4, 65_535), [[0, 0, 2**20 + 1, 1, 5, 5]], "has a polygon with a point at 1.04858e\\+06"),
        ((4, 65_535), [[0, 0, 2**19, 1] * 9], "polygons with an outline of more than 2097152 pixels"),
        ((1, 4), {"size": [1, 4], "counts": [2**33, 4 - 2**33]}, "the mask of frame 0 covers 4 pixels"),
        ((1, 4), {"size": [1, 4], "counts": [2**70]}, "the mask of frame 0 covers 1180591620717411303424"),
    ],
)
def test_sizes_are_bounded(
    written: Callable[..., Path], size: tuple[int, int], mask: object, message: str
) -> None:
    def change(contents: dict[str, Any]) -> None:
        contents["videos"][0].update(height=size[0], width=size[1])
        contents["annotations"] = [contents["annotations"][0] | {"segmentations": [mask, *[None] * 4]}]

    with pytest.raises(DataError, match=message):
        read_dataset(written(change))


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_class_names_of_a_text_and_of_annotations(tmp_path: Path, encoding: str) -> None:
    text = tmp_path / "names.txt"
    text.write_bytes("Straße\r\n\n traffic light \nowl".encode(encoding))
    assert class_names(text) == ("Straße", "traffic light", "owl")
    categories = [{"id": 7, "name": "owl"}, {"id": 3, "name": "cat"}]
    annotations = tmp_path / "train.json"
    annotations.write_bytes(json.dumps({"categories": categories}).encode(encoding))
    assert class_names(annotations) == ("cat", "owl")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("names.txt", b" \n", "has no class names; write one per line"),
        ("names.txt", b"\xff\xfe\x00", "is no text file"),
        ("train.json", b'{"categories": []}', "is no annotation file"),
    ],
)
def test_files_without_class_names(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    path = tmp_path / name
    with pytest.raises(DataError, match="check the path"):
        class_names(path)
    path.write_bytes(content)
    with pytest.raises(DataError, match=message):
        class_names(path)
