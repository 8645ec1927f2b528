"""MobileNetV2: inverted residuals with linear bottlenecks, for devices on which a ResNet is too slow.

It has no normalisation layers: batches of a few frames are too small to estimate statistics from, and fixed statistics
are folded into the convolutions when ImageNet weights are read (`idol_deploy.weights.imagenet`).
Source: Sandler et al. 2018, table 2, width 1.0, without its last convolution.
"""

import math
import re
from collections.abc import Iterable
from itertools import pairwise

from torch import Tensor, nn
from torch.nn import functional as F

from idol_deploy.model.backbones.base import ImageNetNames, StagedBackbone
from idol_deploy.model.backbones.config import MobileNetConfig

__all__ = ["InvertedResidual", "MobileNet"]

_STEM, _FIRST = 32, 16  # channels of the first convolution and of the block after it
_EXPANSION = 6
# (channels, blocks, stride) of each row of the table, by stage.
_STAGES = (
    ((24, 2, 2),),
    ((32, 3, 2),),
    ((64, 4, 2), (96, 3, 1)),
    ((160, 3, 2), (320, 1, 1)),
)
# In ImageNet weights, `features.N` is block N; res2 to res5 begin at these numbers.
_FIRST_BLOCKS = (2, 4, 7, 14, 18)
_PARTS = ("expand", "depthwise", "project")
_RESIDUALS = sum(blocks - 1 for stage in _STAGES for _, blocks, _ in stage)


class InvertedResidual(nn.Module):
    """A 1x1 expansion, a depthwise 3x3 with the stride and a 1x1 projection; a residual if the shapes are equal."""

    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int) -> None:
        super().__init__()
        width = inputs * expansion
        self.residual = stride == 1 and inputs == outputs
        self.expand = _conv(inputs, width, 1, gain=1.0) if expansion > 1 else None
        self.depthwise = _conv(width, width, 3, stride, groups=width)
        # With this gain, all residuals together multiply the variance by e at most.
        self.project = _conv(width, outputs, 1, gain=2.0 / _RESIDUALS if self.residual else 2.0)

    def forward(self, x: Tensor) -> Tensor:
        """Map [N, inputs, H, W] to [N, outputs, ceil(H / stride), ceil(W / stride)]."""
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


def _rename(keys: Iterable[str]) -> dict[str, str]:
    """Map keys of a file to names here; an unknown key stays as it is.

    Implementations number the modules of a block differently, but all in order of use: each convolution, then its
    normalisation.
    """
    keys = list(keys)
    modules: dict[int, list[str]] = {}
    for module in sorted({key.rpartition(".")[0] for key in keys}, key=_numbers):
        if re.match(r"features\.\d+\.", module):
            modules.setdefault(int(module.split(".")[1]), []).append(module)
    names: dict[str, str] = {}
    for number, theirs in modules.items():
        parts = ("conv",) if number == 0 else _PARTS[-(len(theirs) // 2) :]
        ours = [f"{_block_name(number)}.{part}{norm}" for part in parts for norm in ("", ".norm")]
        names |= dict(zip(theirs, ours, strict=False))
    split = (key.rpartition(".") for key in keys)
    return {f"{module}.{entry}": f"{names.get(module, module)}.{entry}" for module, _, entry in split}


def _numbers(module: str) -> list[int]:
    return [int(part) for part in module.split(".") if part.isdigit()]


def _block_name(number: int) -> str:
    """Return the name of the module `features.{number}` here."""
    for stage, (begin, end) in enumerate(pairwise(_FIRST_BLOCKS), start=2):
        if begin <= number < end:
            return f"res{stage}.{number - begin}"
    return "stem" if number == 0 else "stem.block"


class MobileNet(StagedBackbone):
    """MobileNetV2."""

    block = InvertedResidual
    imagenet = ImageNetNames(
        network="MobileNetV2",
        marks=frozenset({"features.0.0.weight"}),
        ignored=r"classifier\.|features\.18\.",
        rename=_rename,
        first="stem.conv",
    )

    def __init__(self, config: MobileNetConfig) -> None:
        stages = (_stage(*stage) for stage in zip((_FIRST, *config.channels[:3]), _STAGES, strict=True))
        super().__init__(_Stem(), stages, config.frozen_stages)


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
    """Build a convolution whose initial outputs have `gain` times the inputs' mean square; 2 suits a rectifier."""
    conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups)
    nn.init.normal_(conv.weight, std=math.sqrt(gain / conv.weight[0].numel()))
    assert conv.bias is not None
    nn.init.zeros_(conv.bias)
    return conv
