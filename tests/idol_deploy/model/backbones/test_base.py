from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, Literal

import pytest
import torch
from torch import Tensor, nn

from idol_deploy import settings as settings_module
from idol_deploy.config import BackboneConfig, IdolConfig, MobileNetConfig, ResNetConfig, SwinConfig
from idol_deploy.model.backbones.base import Backbone, build_backbone
from idol_deploy.model.backbones.config import BACKBONES
from idol_deploy.model.backbones.mobilenet import MobileNet
from idol_deploy.model.backbones.resnet import ResNet
from idol_deploy.model.backbones.swin import Swin
from idol_deploy.settings import TrainSettings, settings_from_json, settings_to_json
from idol_deploy.train.graph import build_graph, recompute_layers
from idol_deploy.weights import imagenet
from idol_deploy.weights.checkpoint import load_checkpoint, save_checkpoint
from idol_runtime.errors import CheckpointError


@dataclass(frozen=True)
class PoolConfig(BackboneConfig):
    """A backbone that the package does not know."""

    network: ClassVar[str] = f"{__name__}:PoolNet"
    width: int = 8
    kind: Literal["pool"] = "pool"

    @property
    def channels(self) -> tuple[int, int, int, int]:
        return self.width, self.width, self.width, self.width


class PoolNet(Backbone):
    block = nn.Conv2d

    def __init__(self, config: PoolConfig) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, config.width, 4, 4, padding=2)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        maps = [self.conv(images)]
        for _ in range(3):
            maps.append(nn.functional.avg_pool2d(maps[-1], 2, ceil_mode=True))
        return tuple(maps)


@pytest.mark.parametrize("config", [ResNetConfig(50), ResNetConfig(101), SwinConfig(), MobileNetConfig()])
@pytest.mark.parametrize(("height", "width"), [(64, 96), (65, 97), (33, 200)])
def test_strides_and_channels(config: BackboneConfig, height: int, width: int) -> None:
    with torch.device("meta"):
        features = build_backbone(config)(torch.zeros(1, 3, height, width))
    for feature, channels, stride in zip(features, config.channels, (4, 8, 16, 32), strict=True):
        assert feature.shape == (1, channels, -(-height // stride), -(-width // stride))


def test_the_dispatcher() -> None:
    with torch.device("meta"):
        assert isinstance(build_backbone(ResNetConfig()), ResNet)
        assert isinstance(build_backbone(SwinConfig()), Swin)
        assert isinstance(build_backbone(MobileNetConfig()), MobileNet)


def test_a_new_backbone_is_one_module_and_one_entry(
    tiny_config: IdolConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (settings_module, imagenet):
        monkeypatch.setattr(module, "BACKBONES", (*BACKBONES, PoolConfig))
    config = replace(tiny_config, model=replace(tiny_config.model, backbone=PoolConfig(width=4)))
    settings = TrainSettings(config)
    assert settings_from_json(settings_to_json(settings), "settings.json") == settings
    messages: list[str] = []
    graph = build_graph(settings, 0, None, messages.append)
    assert not [line for line in messages if "frozen" in line]
    recompute_layers(graph.model)
    assert "forward" in graph.model.backbone.conv.__dict__
    save_checkpoint(tmp_path / "pool.safetensors", graph.model, config)
    loaded = load_checkpoint(tmp_path / "pool.safetensors", config)
    assert torch.equal(loaded.backbone.conv.weight, graph.model.backbone.conv.weight)


def test_imagenet_weights_of_another_backbone_name_the_kind(
    tiny_config: IdolConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(CheckpointError, match="of a ResNet, but tiny has a swin backbone"):
        imagenet.imagenet_backbone({"stem.conv1.weight": torch.zeros(1)}, tiny_config, Path("weights.pth"))
