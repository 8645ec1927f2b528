"""A tiny network, and two videos of shapes for it to train on."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from idol_deploy.settings import DataConfig, RunConfig, TrainSettings
from moving_shapes import SHAPES, MadeDataset, make_videos

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from idol_deploy.config import IdolConfig


@pytest.fixture(scope="session")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> MadeDataset:
    """Three videos, 48 x 64 pixels."""
    return make_videos(tmp_path_factory.mktemp("shapes"), videos=3, frames=4, size=(48, 64), shapes=2)


@pytest.fixture
def uneven(tmp_path: Path, settings: TrainSettings) -> TrainSettings:
    """Full frames of three videos with one, two and three instances; only their order is random."""
    made = make_videos(tmp_path / "uneven", videos=3, frames=4, size=(48, 64), shapes=3)
    contents = json.loads(made.annotations.read_text())
    left = {1: 1, 2: 2, 3: 3}
    kept = []
    for entry in contents["annotations"]:
        left[entry["video_id"]] -= 1
        if left[entry["video_id"]] >= 0:
            kept.append(entry)
    made.annotations.write_text(json.dumps(contents | {"annotations": kept}))
    backbone = replace(settings.network.model.backbone, drop_path=0.0)
    model = replace(settings.network.model, backbone=backbone, dropout=0.0)
    # All frames have one size, and the gradient is not clipped.
    train = replace(settings.network.train, crop_probability=0.0, clip_norm=1e9)
    data = replace(settings.data, annotations=str(made.annotations), frames=str(made.frames))
    return replace(settings, network=replace(settings.network, model=model, train=train), data=data)


@pytest.fixture
def settings(tiny_config: IdolConfig, shapes: MadeDataset) -> TrainSettings:
    """Four iterations of two pairs, frames of one size, a snapshot after every second iteration."""
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


@pytest.fixture
def operator_built(libraries: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Make the compiled attention available."""
    from idol_deploy.model import deform_op

    def forget() -> None:
        for cached in (deform_op._cpu_library, deform_op._problem):
            cached.cache_clear()

    monkeypatch.setenv("IDOL_PLUGINS", str(libraries))
    forget()
    yield
    forget()
