"""Overfitting of two videos with a user's commands: the test that training, tracking and scoring learn together."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch

from moving_shapes import make_videos

if TYPE_CHECKING:
    from tests.idol_deploy.conftest import Command

TRAINING = Path(__file__).parents[3] / "docs" / "training.md"
# Random initialisation, and no augmentation.
BY_HEART = (
    *("backbone.frozen_stages=0", "train.backbone_lr_factor=1"),
    *("train.crop_probability=0", "train.flip_probability=0", "train.batch_pairs=2"),
)
# The size of the shapes, and a network that two cores train in minutes.
SMALL = (
    *("train.min_sizes=120", "preprocessing.short_side=120", "train.iterations=400"),
    *("model.encoder_layers=2", "model.decoder_layers=2", "model.hidden_dim=64", "model.ffn_dim=128"),
    *("model.queries=30", "model.heads=4", "model.points=2"),
)


def _set(settings: Sequence[str]) -> list[str]:
    return [part for setting in settings for part in ("--set", setting)]


@pytest.fixture
def one_thread() -> Iterator[None]:
    """A second thread gains little on such small tensors, and waiting for it on a busy machine takes far longer."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
def test_two_videos_are_learnt_by_heart(idol: Command, tmp_path: Path) -> None:
    pytest.importorskip("trackeval", reason="TrackEval is not installed: pip install 'idol-deploy[evaluate]'")
    # One video has three discs of one colour, the other has shapes that hide each other.
    made, output, scores = make_videos(tmp_path / "shapes"), tmp_path / "run", tmp_path / "scores.json"
    # Plain PyTorch, because the compiled operator would change the bits.
    settings = (*BY_HEART, *SMALL, "data.workers=0", "run.operator=never")
    data = ["--annotations", made.annotations, "--frames", made.frames]
    trained = idol("train", "--preset", "edge_ytvis19", "--own-classes", *data, "-o", output, *_set(settings))
    assert trained.status == 0, trained

    weights = ["--weights", output / "final.safetensors", "--preset", output / "settings.json"]
    written = ["--results", output / "results.json", "--json", scores, "--tracking"]
    done = idol("evaluate", "--gt", made.annotations, "--frames", made.frames, *weights, *written)
    assert done.status == 0, done
    found = json.loads(scores.read_text())
    assert found["summary"]["AP50"] >= 0.95, done.out
    assert found["summary"]["AP"] >= 0.6, done.out
    assert found["tracking"]["detection_mean"]["IDSW"] == 0, done.out


def test_documentation_gives_these_settings() -> None:
    text = TRAINING.read_text()
    assert all(f"--set {setting}" in text for setting in BY_HEART)
