from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from idol_deploy.config import IdolConfig
from idol_deploy.data.ytvis import read_dataset
from idol_deploy.studies.figure.annotated import find_video, read_still, read_video_frame
from idol_runtime.errors import DataError
from moving_shapes import SHAPES, MadeDataset, draw_clip


@pytest.mark.parametrize("name", ["2", "0002"])
def test_a_frame_of_a_video(videos: MadeDataset, config: IdolConfig, name: str) -> None:
    sample = read_video_frame(videos.annotations, videos.frames, config, name, 3)
    clip = draw_clip(4, (48, 64), 3, 2)
    seen = clip.masks[:, 3].any((1, 2))
    assert sample.key is sample.reference
    assert sample.labels.tolist() == [label for label, there in zip(clip.labels, seen, strict=True) if there]
    with Image.open(videos.frames / "0002" / "00003.jpg") as image:
        expected = np.asarray(image.resize((96, 72), Image.Resampling.BILINEAR))
    np.testing.assert_array_equal(sample.key.image, expected)
    for box, mask in zip(sample.key.boxes_xyxy, clip.masks[seen, 3], strict=True):
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        wanted = np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]) * 1.5
        np.testing.assert_allclose(box, wanted, atol=1)


@pytest.mark.parametrize("name", ["2", "000000000002", "000000000002.jpg"])
def test_a_still_image(stills: MadeDataset, config: IdolConfig, name: str) -> None:
    sample = read_still(stills.annotations, stills.frames, replace(config, classes=SHAPES[:2]), name)
    listed = [a for a in json.loads(stills.annotations.read_text())["annotations"] if a["image_id"] == 2]
    listed = [annotation for annotation in listed if annotation["category_id"] < 3]
    assert sample.labels.tolist() == [annotation["category_id"] - 1 for annotation in listed]
    for box, annotation in zip(sample.reference.boxes_xyxy, listed, strict=True):
        x, y, width, height = annotation["bbox"]
        np.testing.assert_allclose(box, np.array([x, y, x + width, y + height]) * 1.5)


def test_what_is_not_there(videos: MadeDataset, stills: MadeDataset, config: IdolConfig) -> None:
    of_videos, of_stills = (
        (videos.annotations, videos.frames, config),
        (stills.annotations, stills.frames, config),
    )
    with pytest.raises(DataError, match=r"has no video '0003'; did you mean 0002 \(id 2\) or 0001 \(id 1\)"):
        read_video_frame(*of_videos, "0003", 0)
    with pytest.raises(DataError, match="video 1 has no frame 4; choose one of 0 to 3"):
        read_video_frame(*of_videos, "1", 4)
    with pytest.raises(DataError, match="has no image 'street'; it has 000000000001"):
        read_still(*of_stills, "street")


def test_two_videos_in_one_folder(tmp_path: Path) -> None:
    videos = [{"id": i, "height": 4, "width": 4, "file_names": [f"tour/{i}.png"]} for i in (4, 7)]
    path = tmp_path / "gt.json"
    path.write_text(json.dumps({"videos": videos, "categories": [{"id": 1, "name": "a"}]}))
    with pytest.raises(DataError, match="2 videos in 'tour'; choose one of the ids 4, 7"):
        find_video(read_dataset(path), "tour")


def test_nothing_to_see(videos: MadeDataset, stills: MadeDataset, config: IdolConfig, tmp_path: Path) -> None:
    content = json.loads(videos.annotations.read_text())
    for annotation in content["annotations"]:
        annotation["segmentations"][:2] = [None, None]
    path = tmp_path / "gt.json"
    path.write_text(json.dumps(content))
    with pytest.raises(
        DataError, match=r"video 1, frame 0 has no instance .*; choose one of the frames 2, 3"
    ):
        read_video_frame(path, videos.frames, config, "1", 0)
    lonely = replace(config, classes=("cat", "triangle"))
    content = json.loads(stills.annotations.read_text())
    content["annotations"] = [a for a in content["annotations"] if a["category_id"] < 3]
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match="image 1 has no instance of the network's classes"):
        read_still(path, stills.frames, lonely, "1")
    small = replace(config, preprocessing=replace(config.preprocessing, short_side=1))
    with pytest.raises(DataError, match="too small for the network's input; choose another"):
        read_video_frame(videos.annotations, videos.frames, small, "1", 3)
