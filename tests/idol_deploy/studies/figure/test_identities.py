from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from idol_deploy.studies.figure.identities import Identities, draw_identities, read_truth
from idol_deploy.studies.figure.paired_runs import PairedFrame
from idol_deploy.studies.figure.sheet import colour_of
from idol_runtime.errors import ConfigError, DataError
from idol_runtime.tracking.rle import encode_rles
from moving_shapes import MadeDataset, draw_clip

# Identities of shapes 0 and 1 in four frames, per run; the second shape is absent from frame 1 and changes in run 1.
IDS = (([0, 1], [0, 1]), ([0, -1], [0, -1]), ([0, 1], [0, 7]), ([0, 1], [0, 7]))


@pytest.fixture
def frames() -> list[PairedFrame]:
    """Two shapes of video 1 in both runs."""
    masks = draw_clip(4, (48, 64), 3, 1).masks[:2]
    boxes = np.array([[4, 4, 30, 20], [20, 20, 50, 40]], np.float32)
    return [
        PairedFrame(t, np.array(ids, np.int64), boxes, tuple(encode_rles(masks[:, t])))
        for t, ids in enumerate(IDS)
    ]


def draw(frames: list[PairedFrame], videos: MadeDataset, path: Path, **options: object) -> Identities:
    source = str(videos.frames / "0001")
    return draw_identities(frames, source, path, names=("upper", "lower"), **options)  # type: ignore[arg-type]


def test_two_rows_of_the_frames_where_they_differ(
    frames: list[PairedFrame], videos: MadeDataset, svg: Callable[..., str]
) -> None:
    drawn: list[Identities] = []
    source = svg(lambda path: drawn.append(draw(frames, videos, path, note="toy weights")))
    assert drawn == [Identities((0, 1, 2), True, (2, 3), (0, 1))]
    assert ">upper: 2 identities in the video; 0 changed in these frames</text>" in source
    assert ">lower: 3 identities in the video; 1 changed in these frames</text>" in source
    assert source.count(">#7, was #1</text>") == 1
    assert source.count(">#0</text>") == 6
    assert source.count(">#1</text>") == 3
    for text in ("frame 2", "toy weights"):
        assert f">{text}</text>" in source


def test_changes_against_annotations(frames: list[PairedFrame], videos: MadeDataset, tmp_path: Path) -> None:
    truth = read_truth(videos.annotations, "0001")
    drawn = draw(frames, videos, tmp_path / "a.png", truth=truth, indices=(3, 0))
    assert drawn == Identities((0, 3), True, (2, 3), (0, 1), switches=(0, 1))


def test_an_instance_has_the_colour_of_its_identity(
    frames: list[PairedFrame], videos: MadeDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from matplotlib.axes import Axes

    shown: list[np.ndarray] = []
    imshow = Axes.imshow

    def spy(axes: Axes, image: np.ndarray, **options: object) -> object:
        shown.append(image)
        return imshow(axes, image, **options)

    monkeypatch.setattr(Axes, "imshow", spy)
    draw(frames, videos, tmp_path / "a.png", indices=(2, 3))
    masks = draw_clip(4, (48, 64), 3, 1).masks
    with Image.open(videos.frames / "0001" / "00003.jpg") as image:
        picture = np.asarray(image) / 255
    for run, picture_of_run in enumerate((shown[1], shown[3])):
        for i, identity in enumerate(IDS[3][run]):
            expected = 0.58 * picture[masks[i, 3]] + 0.42 * np.array(colour_of(identity))
            np.testing.assert_allclose(picture_of_run[masks[i, 3]], expected, atol=1e-6)
        free = ~masks[:2, 3].any(0)
        np.testing.assert_allclose(picture_of_run[free], picture[free], atol=1e-6)


def test_frames_that_are_not_there(frames: list[PairedFrame], videos: MadeDataset, tmp_path: Path) -> None:
    out = tmp_path / "a.png"
    with pytest.raises(ConfigError, match="there is no frame 9 among those read; choose frames of 0 to 3"):
        draw(frames, videos, out, indices=(1, 9))
    for count in (1, 5):
        with pytest.raises(ConfigError, match=f"cannot choose {count} frames of 4; choose 2 to 4"):
            draw(frames, videos, out, count=count)


def test_annotations_of_another_video(frames: list[PairedFrame], videos: MadeDataset, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has no video '7'; it has 0001 "):
        read_truth(videos.annotations, "7")
    text = (
        videos.annotations.read_text()
        .replace('"height": 48', '"height": 64')
        .replace('"width": 64', '"width": 48')
    )
    (tmp_path / "gt.json").write_text(text)
    with pytest.raises(
        DataError, match="48x64 and those of the annotated video 64x48; give the annotations of"
    ):
        draw(frames, videos, tmp_path / "a.png", truth=read_truth(tmp_path / "gt.json", "1"))
    longer = [*frames, PairedFrame(4, frames[0].ids, frames[0].boxes_xyxy, frames[0].masks)]
    with pytest.raises(DataError, match="has 4 frames and the source more"):
        draw(longer, videos, tmp_path / "a.png", truth=read_truth(videos.annotations, "1"), indices=(0,))
