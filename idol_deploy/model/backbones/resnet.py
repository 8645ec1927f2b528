"""Backbones: bottleneck ResNets with frozen normalisation, and the choice between them, Swin and MobileNet.

Letters: N images, H x W pixels, C channels. Every backbone maps [N, 3, H, W] to the tuple (res2, res3, res4,
res5), whose feature maps have strides 4, 8, 16 and 32 and sides ceil(H / stride) x ceil(W / stride).
Source: He et al. 2016, docs/idol.md §1.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from idol_deploy.model.backbones.mobilenet import MobileNet
from idol_deploy.model.backbones.swin import Swin
from idol_deploy.model.config import BackboneConfig, MobileNetConfig, ResNetConfig, SwinConfig

__all__ = ["Bottleneck", "ConvNorm", "FrozenBatchNorm", "ResNet", "build_backbone"]

_BLOCKS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}


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
        """Normalises [N, C, H, W] per channel."""
        scale = self.weight * (self.running_var + self.eps).rsqrt()
        shift = self.bias - self.running_mean * scale
        return x * scale[:, None, None] + shift[:, None, None]


class ConvNorm(nn.Conv2d):
    """A convolution without bias, followed by frozen normalisation; "same" padding for odd kernels."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1) -> None:
        super().__init__(inputs, outputs, kernel, stride, kernel // 2, bias=False)
        self.norm = FrozenBatchNorm(outputs)
        nn.init.kaiming_normal_(self.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """Maps [N, inputs, H, W] to [N, outputs, ceil(H / stride), ceil(W / stride)]."""
        normalised: Tensor = self.norm(super().forward(x))
        return normalised


class Bottleneck(nn.Module):
    """1x1, 3x3 (which carries the stride), 1x1, and a residual."""

    def __init__(self, inputs: int, width: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.shortcut = ConvNorm(inputs, outputs, 1, stride) if inputs != outputs else None
        self.conv1 = ConvNorm(inputs, width, 1)
        self.conv2 = ConvNorm(width, width, 3, stride)
        self.conv3 = ConvNorm(width, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Maps [N, inputs, H, W] to [N, outputs, ceil(H / stride), ceil(W / stride)]."""
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


class ResNet(nn.Module):
    """ResNet-50 or -101; the first `frozen_stages` of (stem, res2, ...) do not train."""

    def __init__(self, config: ResNetConfig) -> None:
        super().__init__()
        self.stem = _Stem()
        blocks = _BLOCKS[config.depth]
        inputs = (64, *config.channels)
        self.res2, self.res3, self.res4, self.res5 = (
            _stage(inputs[i], config.channels[i], blocks[i], stride=1 if i == 0 else 2) for i in range(4)
        )
        stages = (self.stem, self.res2, self.res3, self.res4, self.res5)
        for stage in stages[: config.frozen_stages]:
            stage.requires_grad_(requires_grad=False)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Maps normalised images [N, 3, H, W] to (res2, res3, res4, res5)."""
        res2 = self.res2(self.stem(images))
        res3 = self.res3(res2)
        res4 = self.res4(res3)
        return res2, res3, res4, self.res5(res4)


def _stage(inputs: int, outputs: int, blocks: int, stride: int) -> nn.Sequential:
    width = outputs // 4
    first = Bottleneck(inputs, width, outputs, stride)
    return nn.Sequential(first, *(Bottleneck(outputs, width, outputs, 1) for _ in range(blocks - 1)))


def build_backbone(config: BackboneConfig) -> ResNet | Swin | MobileNet:
    """The backbone that the configuration describes."""
    match config:
        case ResNetConfig():
            return ResNet(config)
        case SwinConfig():
            return Swin(config)
        case MobileNetConfig():
            return MobileNet(config)
