"""Bottleneck ResNets with frozen batch normalisation.

Letters: N images, H x W pixels, C channels. Source: He et al. 2016, docs/idol.md §1.
"""

import re
from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from idol_deploy.model.backbones.base import ImageNetNames, StagedBackbone
from idol_deploy.model.backbones.config import ResNetConfig

__all__ = ["Bottleneck", "ConvNorm", "FrozenBatchNorm", "ResNet"]

_BLOCKS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}
# From torchvision's names to detectron2's, which are the names used here.
_TORCHVISION = (
    (re.compile(r"^(conv1|bn1)\."), r"stem.\1."),
    (re.compile(r"^layer([1-4])\."), lambda match: f"res{int(match[1]) + 1}."),
    (re.compile(r"\bbn([1-3])\."), r"conv\1.norm."),
    (re.compile(r"\bdownsample\.0\."), "shortcut."),
    (re.compile(r"\bdownsample\.1\."), "shortcut.norm."),
)


class FrozenBatchNorm(nn.Module):
    """Batch normalisation whose statistics and affine parameters are constants: x * scale + shift."""

    weight: Tensor
    bias: Tensor
    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.register_buffer("weight", torch.ones(channels))
        self.register_buffer("bias", torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels) - eps)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise [N, C, H, W] per channel."""
        scale = self.weight * (self.running_var + self.eps).rsqrt()
        shift = self.bias - self.running_mean * scale
        return x * scale[:, None, None] + shift[:, None, None]


class ConvNorm(nn.Conv2d):
    """A convolution without bias, followed by frozen normalisation; padded by half the kernel."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1) -> None:
        super().__init__(inputs, outputs, kernel, stride, kernel // 2, bias=False)
        self.norm = FrozenBatchNorm(outputs)
        nn.init.kaiming_normal_(self.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """Map [N, inputs, H, W] to [N, outputs, ceil(H / stride), ceil(W / stride)]."""
        normalised: Tensor = self.norm(super().forward(x))
        return normalised


class Bottleneck(nn.Module):
    """A residual block of 1x1, 3x3 (with the stride) and 1x1 convolutions."""

    def __init__(self, inputs: int, width: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.shortcut = ConvNorm(inputs, outputs, 1, stride) if inputs != outputs else None
        self.conv1 = ConvNorm(inputs, width, 1)
        self.conv2 = ConvNorm(width, width, 3, stride)
        self.conv3 = ConvNorm(width, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map [N, inputs, H, W] to [N, outputs, ceil(H / stride), ceil(W / stride)]."""
        residual = x if self.shortcut is None else self.shortcut(x)
        x = F.relu(self.conv1(x))
        x = F.relu(self.conv2(x))
        return F.relu(self.conv3(x) + residual)


class _Stem(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = ConvNorm(3, 64, 7, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return F.max_pool2d(F.relu(self.conv1(x)), kernel_size=3, stride=2, padding=1)


def _rename(keys: Iterable[str]) -> dict[str, str]:
    names = {}
    for key in keys:
        name = key
        for pattern, replacement in _TORCHVISION:
            name = pattern.sub(replacement, name)
        names[key] = name
    return names


class ResNet(StagedBackbone):
    """ResNet-50 or ResNet-101."""

    block = Bottleneck
    imagenet = ImageNetNames(
        network="ResNet",
        marks=frozenset({"layer1.0.conv1.weight", "stem.conv1.weight"}),
        ignored=r"(stem\.)?fc\.",
        rename=_rename,
        first="stem.conv1",
    )

    def __init__(self, config: ResNetConfig) -> None:
        inputs = (64, *config.channels)
        stages = (
            _stage(inputs[i], inputs[i + 1], blocks, stride=1 if i == 0 else 2)
            for i, blocks in enumerate(_BLOCKS[config.depth])
        )
        super().__init__(_Stem(), stages, config.frozen_stages)


def _stage(inputs: int, outputs: int, blocks: int, stride: int) -> nn.Sequential:
    width = outputs // 4
    first = Bottleneck(inputs, width, outputs, stride)
    return nn.Sequential(first, *(Bottleneck(outputs, width, outputs, 1) for _ in range(blocks - 1)))
