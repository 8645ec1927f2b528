"""MobileNetV2: inverted residuals with linear bottlenecks, for devices that a ResNet is too slow on.

It has no normalisation: batches of a few frames are too small to estimate statistics from, and fixed ones are part of
each convolution's weights and bias. ImageNet weights are folded when read (`idol_deploy.weights.imagenet`).
Source: Sandler et al. 2018, table 2, width 1.0, without its last convolution.
"""

import math

from torch import Tensor, nn
from torch.nn import functional as F

from idol_deploy.model.config import MobileNetConfig

__all__ = ["InvertedResidual", "MobileNet"]

_STEM, _FIRST = 32, 16  # channels of the first convolution, and of the block after it
_EXPANSION = 6
# Channels, blocks and stride of the rows of each stage.
_STAGES = (
    ((24, 2, 2),),
    ((32, 3, 2),),
    ((64, 4, 2), (96, 3, 1)),
    ((160, 3, 2), (320, 1, 1)),
)
_RESIDUALS = sum(blocks - 1 for stage in _STAGES for _, blocks, _ in stage)


class InvertedResidual(nn.Module):
    """1x1 to more channels, a depthwise 3x3 which carries the stride, 1x1 to few; a residual where it fits."""

    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int) -> None:
        super().__init__()
        width = inputs * expansion
        self.residual = stride == 1 and inputs == outputs
        self.expand = _conv(inputs, width, 1, gain=1.0) if expansion > 1 else None
        self.depthwise = _conv(width, width, 3, stride, groups=width)
        # All residuals together multiply the variance by no more than e.
        self.project = _conv(width, outputs, 1, gain=2.0 / _RESIDUALS if self.residual else 2.0)

    def forward(self, x: Tensor) -> Tensor:
        """Maps [N, inputs, H, W] to [N, outputs, ceil(H / stride), ceil(W / stride)]."""
        inner = x if self.expand is None else F.relu6(self.expand(x))
        narrow: Tensor = self.project(F.relu6(self.depthwise(inner)))
        return x + narrow if self.residual else narrow


class _Stem(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = _conv(3, _STEM, 3, stride=2, gain=1.0)
        self.block = InvertedResidual(_STEM, _FIRST, stride=1, expansion=1)

    def forward(self, x: Tensor) -> Tensor:
        mapped: Tensor = self.block(F.relu6(self.conv(x)))
        return mapped


class MobileNet(nn.Module):
    """MobileNetV2; the first `frozen_stages` of (stem, res2, ...) do not train."""

    def __init__(self, config: MobileNetConfig) -> None:
        super().__init__()
        self.stem = _Stem()
        inputs = (_FIRST, *config.channels)
        self.res2, self.res3, self.res4, self.res5 = (_stage(inputs[i], _STAGES[i]) for i in range(4))
        stages = (self.stem, self.res2, self.res3, self.res4, self.res5)
        for stage in stages[: config.frozen_stages]:
            stage.requires_grad_(requires_grad=False)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Maps normalised images [N, 3, H, W] to (res2, res3, res4, res5)."""
        res2 = self.res2(self.stem(images))
        res3 = self.res3(res2)
        res4 = self.res4(res3)
        return res2, res3, res4, self.res5(res4)


def _stage(inputs: int, rows: tuple[tuple[int, int, int], ...]) -> nn.Sequential:
    blocks = []
    for outputs, count, stride in rows:
        for k in range(count):
            blocks.append(InvertedResidual(inputs, outputs, stride if k == 0 else 1, _EXPANSION))
            inputs = outputs
    return nn.Sequential(*blocks)


def _conv(
    inputs: int, outputs: int, kernel: int, stride: int = 1, *, groups: int = 1, gain: float = 2.0
) -> nn.Conv2d:
    """A convolution whose outputs have `gain` times its inputs' mean square at first; 2 makes up for a rectifier."""
    conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups)
    nn.init.normal_(conv.weight, std=math.sqrt(gain / conv.weight[0].numel()))
    assert conv.bias is not None
    nn.init.zeros_(conv.bias)
    return conv
