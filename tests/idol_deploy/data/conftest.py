"""Data sets of moving shapes on disk, and the configuration that trains on them."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from idol_deploy.config import IdolConfig, preset
from moving_shapes import SHAPES, MadeDataset, make_stills, make_videos

if TYPE_CHECKING:
    from pathlib import Path

FORMS = {"ytvis": "ytvis19_r50", "ovis": "ovis_r50", "coco": "coco_r50"}


@pytest.fixture(scope="session", params=FORMS)
def shapes(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[MadeDataset, IdolConfig]:
    """A data set in each format, with the published augmentation at half its size."""
    folder: Path = tmp_path_factory.mktemp(request.param)
    config = replace(preset(FORMS[request.param]), classes=("square", "Disc", "hexagon", "triangle"))
    train = config.train
    halved = replace(
        train,
        min_sizes=tuple(side // 2 for side in train.min_sizes),
        max_size=train.max_size // 2,
        crop_range=(192, 300),
        crop_short_sides=(200, 250, 300),
    )
    size = (200, 320)
    if request.param == "coco":
        made = make_stills(folder, images=5, size=size, shapes=4)
    else:
        made = make_videos(folder, videos=3, frames=14, size=size, shapes=4, form=request.param)
    assert set(SHAPES) == {"disc", "square", "triangle"}
    return made, replace(config, train=halved)
