"""Videos of shapes, a network for them, and the source of pictures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from idol_deploy.config import IdolConfig
from moving_shapes import SHAPES, MadeDataset, make_stills, make_videos


@pytest.fixture(scope="session")
def videos(tmp_path_factory: pytest.TempPathFactory) -> MadeDataset:
    """Two videos of four frames, 48 x 64 pixels, three shapes in each."""
    return make_videos(tmp_path_factory.mktemp("videos"), videos=2, frames=4, size=(48, 64), shapes=3)


@pytest.fixture(scope="session")
def stills(tmp_path_factory: pytest.TempPathFactory) -> MadeDataset:
    """Two images, 48 x 64 pixels."""
    return make_stills(tmp_path_factory.mktemp("stills"), images=2, size=(48, 64), shapes=3)


@pytest.fixture(scope="session")
def config(tiny_config: IdolConfig) -> IdolConfig:
    """A tiny network for shapes, on frames enlarged by a half."""
    train = replace(tiny_config.train, min_sizes=(48,), max_size=64, crop_range=(32, 48), batch_pairs=1)
    preprocessing = replace(tiny_config.preprocessing, short_side=72)
    return replace(tiny_config, classes=SHAPES, train=train, preprocessing=preprocessing)


@pytest.fixture
def svg(tmp_path: Path) -> Callable[[Callable[[Path], object]], str]:
    """A function that returns the source of an SVG picture, with its text as text."""

    def source(draw: Callable[[Path], object]) -> str:
        path = tmp_path / "drawn.svg"
        draw(path)
        return path.read_text()

    return source
