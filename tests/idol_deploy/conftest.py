"""Networks: one full-size one with the reference weights, and a tiny one for everything else."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from idol_deploy.config import IdolConfig, ModelConfig, SwinConfig, ytvis19_r50

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from idol_deploy.batch import Pair
    from idol_deploy.model.idol import Idol


@pytest.fixture(scope="session")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A published `ytvis19_r50` checkpoint with the reference weights."""
    from idol_deploy.reference import write_reference_checkpoint

    path = tmp_path_factory.mktemp("published") / "ytvis19_r50.pth"
    write_reference_checkpoint(path, ytvis19_r50())
    return path


@pytest.fixture(scope="session")
def model(published: Path) -> Idol:
    """The network of `published`; read only."""
    from idol_deploy.checkpoint import load_checkpoint

    return load_checkpoint(published, ytvis19_r50())


@pytest.fixture(scope="session")
def tiny_config() -> IdolConfig:
    """A network of every part, small enough to build in a moment."""
    backbone = SwinConfig(embed_dim=8, depths=(1, 2, 1, 1), heads=(1, 1, 2, 2), window=4, drop_path=0.2)
    network = ModelConfig(
        backbone, hidden_dim=32, queries=7, heads=2, ffn_dim=16, encoder_layers=2, decoder_layers=3
    )
    return replace(ytvis19_r50(), name="tiny", model=network, classes=("cat", "dog"))


@pytest.fixture
def tiny(tiny_config: IdolConfig) -> Idol:
    """A fresh tiny network, in evaluation mode."""
    import torch

    from idol_deploy.model.idol import Idol

    torch.manual_seed(0)
    return Idol(tiny_config).eval()


@pytest.fixture(scope="session")
def make_pair() -> Callable[..., Pair]:
    """Two frames of a generated video, and this many random boxes as instances, their masks filled."""
    import torch

    from idol_deploy.batch import Pair
    from idol_deploy.reference import make_video

    def make(instances: int, seed: int = 0, size: tuple[int, int] = (64, 96)) -> Pair:
        height, width = size
        g = torch.Generator().manual_seed(seed)
        frames = torch.from_numpy(make_video(2, height, width, seed))
        low = torch.rand(2, instances, 2, generator=g) * 0.6
        high = low + 0.1 + torch.rand(2, instances, 2, generator=g) * 0.3
        boxes = torch.cat((low, high), -1) * torch.tensor([width, height, width, height])
        y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
        left, top, right, bottom = boxes[0].round()[:, :, None, None].unbind(1)
        masks = (x >= left) & (x < right) & (y >= top) & (y < bottom)
        present = torch.ones(instances, dtype=torch.bool)
        labels = torch.randint(0, 2, (instances,), generator=g)
        identities = torch.arange(instances)
        return Pair(*frames, labels, *boxes, masks, present, present, identities)

    return make
