"""Settings of the backbones, and the list of all kinds (docs/idol.md §1). Imports no torch.

A new backbone needs three changes: a module in this folder with its `Backbone` class, a settings class in `BACKBONES`
here, and a preset in `idol_deploy.config`.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

from idol_runtime.errors import ConfigError

__all__ = ["BACKBONES", "BackboneConfig", "MobileNetConfig", "ResNetConfig", "SwinConfig"]


class BackboneConfig:
    """Settings of any backbone; each kind is a frozen dataclass derived from this class.

    Attributes:
        network: `module:class` of the network; imported when the network is built.
        kind: name of the backbone in settings files.
        frozen_stages: number of stages that do not train: 1 is the stem, 2 the stem and res2, ...
        channels: channels of res2, res3, res4 and res5.
    """

    network: ClassVar[str]
    kind: str
    frozen_stages: int = 0

    @property
    def channels(self) -> tuple[int, int, int, int]:
        """Channels of res2, res3, res4 and res5."""
        raise NotImplementedError

    def __post_init__(self) -> None:
        if not 0 <= self.frozen_stages <= 5:
            raise ConfigError(f"frozen_stages must lie between 0 and 5, got {self.frozen_stages}")


@dataclass(frozen=True)
class ResNetConfig(BackboneConfig):
    """A bottleneck ResNet with frozen batch normalisation and the stride in its 3x3 convolutions.

    Attributes:
        depth: number of layers, 50 or 101.
        frozen_stages: number of stages that do not train: 1 is the stem, 2 the stem and res2, ...
        kind: tag of this backbone in settings files.
    """

    network: ClassVar[str] = "idol_deploy.model.backbones.resnet:ResNet"

    depth: Literal[50, 101] = 50
    frozen_stages: int = 2
    kind: Literal["resnet"] = "resnet"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.depth not in (50, 101):
            raise ConfigError(f"ResNet depth must be 50 or 101, got {self.depth}")

    @property
    def channels(self) -> tuple[int, int, int, int]:
        """Channels of res2, res3, res4 and res5."""
        return 256, 512, 1024, 2048


@dataclass(frozen=True)
class SwinConfig(BackboneConfig):
    """A Swin transformer without absolute position codes; the defaults are Swin-L at 384 pixels. All stages train.

    Attributes:
        embed_dim: channels of res2; each further stage has twice as many.
        depths: number of blocks per stage.
        heads: number of attention heads per stage.
        window: side of an attention window, in cells.
        drop_path: drop probability of the last block's residual branch; it rises linearly from 0 at the first block.
        kind: tag of this backbone in settings files.
    """

    network: ClassVar[str] = "idol_deploy.model.backbones.swin:Swin"

    embed_dim: int = 192
    depths: tuple[int, int, int, int] = (2, 2, 18, 2)
    heads: tuple[int, int, int, int] = (6, 12, 24, 48)
    window: int = 12
    drop_path: float = 0.3
    kind: Literal["swin"] = "swin"

    def __post_init__(self) -> None:
        if not (1 <= self.embed_dim <= 1024 and 1 <= self.window <= 64):
            raise ConfigError(
                f"Swin's embed_dim must lie between 1 and 1024, its window between 1 and 64, got {self.embed_dim} and "
                f"{self.window}"
            )
        if not all(1 <= depth <= 100 for depth in self.depths):
            raise ConfigError(f"Swin's depths must lie between 1 and 100, got {self.depths}")
        pairs = zip(self.channels, self.heads, strict=True)
        if any(heads < 1 or channels % heads for channels, heads in pairs):
            raise ConfigError(f"Swin heads {self.heads} must divide its channels {self.channels}")
        if not 0.0 <= self.drop_path < 1.0:
            raise ConfigError(f"drop_path must lie in [0, 1), got {self.drop_path}")

    @property
    def channels(self) -> tuple[int, int, int, int]:
        """Channels of res2, res3, res4 and res5."""
        dim = self.embed_dim
        return dim, 2 * dim, 4 * dim, 8 * dim


@dataclass(frozen=True)
class MobileNetConfig(BackboneConfig):
    """MobileNetV2 of width 1.0 with its normalisation folded into the convolutions.

    Attributes:
        frozen_stages: number of stages that do not train: 1 is the stem, 2 the stem and res2, ...
        kind: tag of this backbone in settings files.
    """

    network: ClassVar[str] = "idol_deploy.model.backbones.mobilenet:MobileNet"

    frozen_stages: int = 1
    kind: Literal["mobilenet"] = "mobilenet"

    @property
    def channels(self) -> tuple[int, int, int, int]:
        """Channels of res2, res3, res4 and res5."""
        return 24, 32, 96, 320


BACKBONES: tuple[type[BackboneConfig], ...] = (ResNetConfig, SwinConfig, MobileNetConfig)
