"""Typed settings of the network (docs/idol.md §1, §3). Imports no torch."""

from dataclasses import dataclass, field
from typing import Literal

from idol_runtime.errors import ConfigError

__all__ = ["BackboneConfig", "MobileNetConfig", "ModelConfig", "ResNetConfig", "SwinConfig"]


@dataclass(frozen=True)
class ResNetConfig:
    """A bottleneck ResNet with frozen batch normalisation and its stride in the 3x3 convolutions.

    Attributes:
        depth: 50 or 101 layers.
        frozen_stages: 1 freezes the stem, 2 also res2, ...; 0 trains everything.
    """

    depth: Literal[50, 101] = 50
    frozen_stages: int = 2

    def __post_init__(self) -> None:
        if self.depth not in (50, 101):
            raise ConfigError(f"ResNet depth must be 50 or 101, got {self.depth}")
        _check_frozen(self.frozen_stages)

    @property
    def channels(self) -> tuple[int, int, int, int]:
        """Channels of res2 .. res5."""
        return 256, 512, 1024, 2048


@dataclass(frozen=True)
class SwinConfig:
    """A Swin transformer without absolute position codes; the defaults are Swin-L at 384 pixels.

    Attributes:
        embed_dim: channels of res2; doubled at each further stage.
        depths: blocks per stage.
        heads: attention heads per stage.
        window: side of an attention window, in cells.
        drop_path: stochastic depth of the last block; it rises linearly from 0 at the first.
    """

    embed_dim: int = 192
    depths: tuple[int, int, int, int] = (2, 2, 18, 2)
    heads: tuple[int, int, int, int] = (6, 12, 24, 48)
    window: int = 12
    drop_path: float = 0.3

    def __post_init__(self) -> None:
        if any(channels % heads for channels, heads in zip(self.channels, self.heads, strict=True)):
            raise ConfigError(f"Swin heads {self.heads} must divide its channels {self.channels}")
        if not 0.0 <= self.drop_path < 1.0:
            raise ConfigError(f"drop_path must lie in [0, 1), got {self.drop_path}")

    @property
    def channels(self) -> tuple[int, int, int, int]:
        """Channels of res2 .. res5."""
        dim = self.embed_dim
        return dim, 2 * dim, 4 * dim, 8 * dim


@dataclass(frozen=True)
class MobileNetConfig:
    """MobileNetV2 of width 1.0, normalisation folded into its convolutions.

    Attributes:
        frozen_stages: 1 freezes the stem, 2 also res2, ...; 0 trains everything.
    """

    frozen_stages: int = 1

    def __post_init__(self) -> None:
        _check_frozen(self.frozen_stages)

    @property
    def channels(self) -> tuple[int, int, int, int]:
        """Channels of res2 .. res5."""
        return 24, 32, 96, 320


BackboneConfig = ResNetConfig | SwinConfig | MobileNetConfig


def _check_frozen(stages: int) -> None:
    if not 0 <= stages <= 5:
        raise ConfigError(f"frozen_stages must lie between 0 and 5, got {stages}")


@dataclass(frozen=True)
class ModelConfig:
    """The network (docs/idol.md §3).

    Attributes:
        backbone: which backbone.
        hidden_dim: channels of tokens, queries and embeddings.
        queries: object queries per frame.
        heads: attention heads.
        ffn_dim: hidden width of the feed-forward blocks.
        encoder_layers: deformable encoder layers.
        decoder_layers: decoder layers, each of which refines the boxes.
        levels: feature levels, strides 8, 16, 32 and 64.
        points: sampled points per head and level, in encoder and decoder.
        dropout: share dropped in training, everywhere in the transformer.
    """

    backbone: BackboneConfig = field(default_factory=ResNetConfig)
    hidden_dim: int = 256
    queries: int = 300
    heads: int = 8
    ffn_dim: int = 1024
    encoder_layers: int = 6
    decoder_layers: int = 6
    levels: int = 4
    points: int = 4
    dropout: float = 0.1

    def __post_init__(self) -> None:
        if self.hidden_dim % self.heads or self.hidden_dim % 32:
            raise ConfigError(
                f"hidden_dim must be a multiple of 32 and of heads ({self.heads}), got {self.hidden_dim}"
            )
        if self.levels != 4:
            raise ConfigError(f"levels must be 4 (strides 8, 16, 32, 64), got {self.levels}")
        counts = (self.queries, self.ffn_dim, self.encoder_layers, self.decoder_layers, self.points)
        if min(counts) < 1:
            raise ConfigError("queries, ffn_dim, encoder_layers, decoder_layers and points must be positive")
        if not 0.0 <= self.dropout < 1.0:
            raise ConfigError(f"dropout must lie in [0, 1), got {self.dropout}")
