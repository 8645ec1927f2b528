"""Settings of the network (docs/idol.md §1, §3). Imports no torch."""

from dataclasses import dataclass, field

from idol_deploy.model.backbones.config import BackboneConfig, ResNetConfig
from idol_runtime.errors import ConfigError

__all__ = ["ModelConfig"]

# Largest sizes; far above those of any preset.
_MOST = {
    "hidden_dim": 4096,
    "queries": 10_000,
    "heads": 4096,
    "ffn_dim": 65_536,
    "encoder_layers": 100,
    "decoder_layers": 100,
    "points": 64,
}


@dataclass(frozen=True)
class ModelConfig:
    """The network (docs/idol.md §3).

    Attributes:
        backbone: settings of the backbone.
        hidden_dim: number of channels of tokens, queries and embeddings; a multiple of 32 and of `heads`.
        queries: number of object queries per frame.
        heads: number of attention heads.
        ffn_dim: hidden width of the feed-forward blocks.
        encoder_layers: number of encoder layers.
        decoder_layers: number of decoder layers; each refines the boxes.
        levels: number of feature levels; always 4 (strides 8, 16, 32 and 64).
        points: number of sampled points per head and level, in encoder and decoder.
        dropout: drop probability in training, everywhere in the transformer.
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
        for name, most in _MOST.items():
            if not 1 <= getattr(self, name) <= most:
                raise ConfigError(f"model.{name} must lie between 1 and {most}, got {getattr(self, name)}")
        if self.hidden_dim % self.heads or self.hidden_dim % 32:
            raise ConfigError(
                f"hidden_dim must be a multiple of 32 and of heads ({self.heads}), got {self.hidden_dim}"
            )
        if self.levels != 4:
            raise ConfigError(f"levels must be 4 (strides 8, 16, 32, 64), got {self.levels}")
        if not 0.0 <= self.dropout < 1.0:
            raise ConfigError(f"dropout must lie in [0, 1), got {self.dropout}")
