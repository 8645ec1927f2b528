"""A tiny network, and two videos of shapes for it to train on."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from idol_deploy.data.synthetic import SHAPES, MadeDataset, make_videos
from idol_deploy.train.settings import DataConfig, RunConfig, TrainSettings

if TYPE_CHECKING:
    from idol_deploy.config import IdolConfig


@pytest.fixture(scope="session")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> MadeDataset:
    """Three videos, 48 x 64 pixels."""
    return make_videos(tmp_path_factory.mktemp("shapes"), videos=3, frames=4, size=(48, 64), shapes=2)


@pytest.fixture
def settings(tiny_config: IdolConfig, shapes: MadeDataset) -> TrainSettings:
    """Four iterations of two pairs, on one size of frame, a snapshot after each second."""
    train = replace(
        tiny_config.train,
        min_sizes=(48,),
        max_size=64,
        crop_range=(32, 48),
        batch_pairs=2,
        iterations=4,
        checkpoint_period=2,
    )
    network = replace(tiny_config, classes=SHAPES, train=train)
    data = DataConfig(str(shapes.annotations), str(shapes.frames), workers=0)
    return TrainSettings(network, data=data, run=RunConfig(log_period=1))
