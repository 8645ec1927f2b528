"""The interface of a backbone, and how its ImageNet weights are named.

Letters: N images, H x W pixels. Every backbone maps [N, 3, H, W] to the tuple (res2, res3, res4, res5), whose feature
maps have strides 4, 8, 16 and 32 and sides ceil(H / stride) x ceil(W / stride).
"""

import pkgutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from idol_deploy.model.backbones.config import BackboneConfig

__all__ = ["Backbone", "ImageNetNames", "StagedBackbone", "backbone_class", "build_backbone"]


@dataclass(frozen=True)
class ImageNetNames:
    """Tensor names in files of ImageNet weights for one backbone.

    Attributes:
        network: name of the network, for messages.
        marks: keys that only a file of this network contains; one of them identifies it.
        ignored: regular expression of the keys that the backbone does not need, such as the classifier's.
        rename: function from the file's remaining keys to their names in the backbone. Each normalisation is named
            `CONVOLUTION.norm`, also where the backbone has it folded into the convolution.
        first: name of the first convolution.
    """

    network: str
    marks: frozenset[str]
    ignored: str
    rename: Callable[[Iterable[str]], dict[str, str]]
    first: str


class Backbone(nn.Module):
    """A network from normalised images [N, 3, H, W] to the maps (res2, res3, res4, res5).

    Attributes:
        block: type of its residual blocks, whose activations can be recomputed in training.
        imagenet: tensor names of its ImageNet weights; None if no such file can be read.
    """

    block: ClassVar[type[nn.Module]]
    imagenet: ClassVar[ImageNetNames | None] = None


class StagedBackbone(Backbone):
    """A stem and four stages, applied in order; the first `frozen_stages` of these five do not train."""

    def __init__(self, stem: nn.Module, stages: Iterable[nn.Module], frozen_stages: int) -> None:
        super().__init__()
        self.stem = stem
        self.res2, self.res3, self.res4, self.res5 = stages
        for stage in (self.stem, self.res2, self.res3, self.res4, self.res5)[:frozen_stages]:
            stage.requires_grad_(requires_grad=False)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Map normalised images [N, 3, H, W] to (res2, res3, res4, res5)."""
        res2 = self.res2(self.stem(images))
        res3 = self.res3(res2)
        res4 = self.res4(res3)
        return res2, res3, res4, self.res5(res4)


def backbone_class(config: type[BackboneConfig]) -> type[Backbone]:
    """Import the network of a kind of backbone."""
    network: type[Backbone] = pkgutil.resolve_name(config.network)
    return network


def build_backbone(config: BackboneConfig) -> Backbone:
    """Build the backbone that the configuration describes, with random weights."""
    return backbone_class(type(config))(config)
