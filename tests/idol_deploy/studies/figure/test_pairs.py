from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from PIL import Image

from idol_deploy.data.loader import LoaderState, PairLoader
from idol_deploy.data.pairs import open_pairs
from idol_deploy.objective.batch import Pair, collate
from idol_deploy.settings import DataConfig, RunConfig, TrainSettings
from idol_deploy.studies.figure.pairs import draw_pairs, draw_training_pairs, write_pairs
from idol_runtime.config import Preprocessing
from idol_runtime.errors import ConfigError, OutputError
from idol_runtime.sinks.palette import id_colour

if TYPE_CHECKING:
    from pathlib import Path

    from idol_deploy.config import IdolConfig
    from idol_deploy.objective.batch import Batch
    from moving_shapes import MadeDataset

pytest.importorskip("cv2")


@pytest.fixture
def settings(videos: MadeDataset, config: IdolConfig) -> TrainSettings:
    return TrainSettings(config, DataConfig(str(videos.annotations), str(videos.frames)), RunConfig(seed=5))


def test_pairs_are_those_of_training(settings: TrainSettings, videos: MadeDataset, tmp_path: Path) -> None:
    source = open_pairs(videos.annotations, videos.frames, settings.network)
    loader = PairLoader(source, settings.network.preprocessing, pairs=2, state=LoaderState(5))
    for number, batch in enumerate(itertools.islice(loader, 2)):
        path = tmp_path / f"{number}.png"
        assert draw_training_pairs(settings, path, pairs=2, start=2 * number) == ()
        scale = -(-320 // min(batch.images.shape[2:]))
        assert scale > 1
        with Image.open(path) as image:
            expected = draw_pairs(batch, settings.network.classes, scale)
            np.testing.assert_array_equal(np.asarray(image), expected)


def test_faults_of_the_data_are_returned(
    settings: TrainSettings, videos: MadeDataset, tmp_path: Path
) -> None:
    text = videos.annotations.read_text().replace("0002/00003.jpg", "0002/lost.jpg")
    (tmp_path / "gt.json").write_text(text)
    settings = TrainSettings(settings.network, DataConfig(str(tmp_path / "gt.json"), str(videos.frames)))
    (note,) = draw_training_pairs(settings, tmp_path / "a.png", pairs=1)
    assert "missing frame" in note
    assert "lost.jpg" in note


def test_a_picture_that_cannot_be(settings: TrainSettings, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"use the suffix \.png, \.jpg or \.webp"):
        draw_training_pairs(settings, tmp_path / "a.svg")
    with pytest.raises(OutputError, match="does not exist; create it first"):
        draw_training_pairs(settings, tmp_path / "none" / "a.png")


@pytest.fixture
def batch() -> Batch:
    """One pair: two instances on the key frame of 200 x 300, the second also on the reference of 180 x 320."""
    masks = torch.zeros(2, 200, 300, dtype=torch.bool)
    masks[0, 100:160, 40:120] = True
    masks[1, 100:160, 200:280] = True
    pair = Pair(
        key=torch.full((3, 200, 300), 100, dtype=torch.uint8),
        reference=torch.full((3, 180, 320), 100, dtype=torch.uint8),
        labels=torch.tensor([0, 1]),
        key_boxes=torch.tensor([[40.0, 100, 120, 160], [200, 100, 280, 160]]),
        reference_boxes=torch.tensor([[0.0, 0, 0, 0], [150, 80, 210, 140]]),
        masks=masks,
        on_key=torch.tensor([True, True]),
        on_reference=torch.tensor([False, True]),
        identities=torch.tensor([-1, -1]),
    )
    return collate([pair], Preprocessing())


def test_everything_is_where_the_losses_see_it(batch: Batch) -> None:
    height, width = batch.images.shape[2:]
    assert (height, width) == (224, 320)
    picture = draw_pairs(batch, ("cat", "dog"))
    key, reference = picture[:, :width], picture[:, width + 8 :]
    assert reference.shape == (height + 40, width, 3)
    for i, centre in ((0, (140, 80)), (1, (140, 240))):
        np.testing.assert_allclose(key[centre], 58 + 0.42 * np.array(id_colour(i)), atol=2)
    np.testing.assert_array_equal(key[140, 160], 100)
    np.testing.assert_array_equal(key[50, 310], 208)  # padding at the right of the key frame
    np.testing.assert_array_equal(reference[200, 100], 208)  # and below the reference
    np.testing.assert_array_equal(reference[110, 180], 100)  # a box, but no mask
    edge = reference[120, 150:152].astype(int)
    assert np.abs(edge - np.array(id_colour(1))).max(1).min() < 40


def test_writes_a_picture_or_says_why_not(batch: Batch, tmp_path: Path) -> None:
    write_pairs(batch, ("cat", "dog"), tmp_path / "pairs.png")
    with Image.open(tmp_path / "pairs.png") as image:
        np.testing.assert_array_equal(np.asarray(image), draw_pairs(batch, ("cat", "dog")))
    with pytest.raises(OutputError, match="does not exist; create it first"):
        write_pairs(batch, ("cat", "dog"), tmp_path / "none" / "pairs.png")
