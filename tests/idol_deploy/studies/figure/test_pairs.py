from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from idol_deploy.config import IdolConfig
from idol_deploy.data.loader import LoaderState, PairLoader
from idol_deploy.data.preview import draw_pairs
from idol_deploy.data.synthetic import MadeDataset
from idol_deploy.data.video_pairs import VideoPairs
from idol_deploy.settings import DataConfig, RunConfig, TrainSettings
from idol_deploy.studies.figure.pairs import draw_training_pairs
from idol_runtime.errors import ConfigError, OutputError


@pytest.fixture
def settings(videos: MadeDataset, config: IdolConfig) -> TrainSettings:
    return TrainSettings(config, DataConfig(str(videos.annotations), str(videos.frames)), RunConfig(seed=5))


def test_pairs_are_those_of_training(settings: TrainSettings, videos: MadeDataset, tmp_path: Path) -> None:
    source = VideoPairs.open(videos.annotations, videos.frames, settings.network)
    loader = PairLoader(source, settings.network.preprocessing, pairs=2, state=LoaderState(5))
    for number, batch in enumerate(itertools.islice(loader, 2)):
        path = tmp_path / f"{number}.png"
        assert draw_training_pairs(settings, path, pairs=2, start=2 * number) == ()
        scale = -(-320 // min(batch.images.shape[2:]))
        assert scale > 1
        with Image.open(path) as image:
            expected = draw_pairs(batch, settings.network.classes, scale)
            np.testing.assert_array_equal(np.asarray(image), expected)


def test_what_is_left_out_is_told(settings: TrainSettings, videos: MadeDataset, tmp_path: Path) -> None:
    text = videos.annotations.read_text().replace("0002/00003.jpg", "0002/lost.jpg")
    (tmp_path / "gt.json").write_text(text)
    settings = TrainSettings(settings.network, DataConfig(str(tmp_path / "gt.json"), str(videos.frames)))
    (note,) = draw_training_pairs(settings, tmp_path / "a.png", pairs=1)
    assert "missing frame" in note
    assert "lost.jpg" in note


def test_a_picture_that_cannot_be(settings: TrainSettings, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"its name ends in \.png, \.jpg or \.webp"):
        draw_training_pairs(settings, tmp_path / "a.svg")
    with pytest.raises(OutputError, match="does not exist; create it first"):
        draw_training_pairs(settings, tmp_path / "none" / "a.png")
