"""Heads on the query states: classes, embedding and the parameters of the query's mask network (docs/idol.md §3.4).

The decoder has the box heads, because it refines the boxes layer by layer.
"""

import math

from torch import Tensor, nn
from torch.nn import functional as F

from idol_deploy.model.config import ModelConfig
from idol_deploy.model.mask_head import MASK_PARAMETERS

__all__ = ["Heads", "Mlp"]

# Foreground probability that the untrained class head predicts (Lin et al. 2017).
_PRIOR = 0.01


class Mlp(nn.Module):
    """Three linear layers with relu between them: dim -> dim -> dim -> outputs."""

    def __init__(self, dim: int, outputs: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList((nn.Linear(dim, dim), nn.Linear(dim, dim), nn.Linear(dim, outputs)))

    @property
    def linears(self) -> tuple[nn.Linear, ...]:
        """The layers, typed as nn.Linear."""
        return tuple(layer for layer in self.layers if isinstance(layer, nn.Linear))

    def forward(self, x: Tensor) -> Tensor:
        """Map [..., dim] to [..., outputs]."""
        *hidden, last = self.layers
        for layer in hidden:
            x = F.relu(layer(x))
        outputs: Tensor = last(x)
        return outputs


class Heads(nn.Module):
    """One class head per decoder layer; one embedding head and one mask controller for all layers.

    Attributes:
        class_embed: one linear layer per decoder layer, from states to class logits; there is no background class.
        embedding: network from states [..., C] to embeddings [..., C]. They are not normalised: association compares
            plain dot products, whose size carries confidence.
        controller: network from states to the 169 parameters of each query's mask network.
    """

    def __init__(self, config: ModelConfig, classes: int) -> None:
        super().__init__()
        dim = config.hidden_dim
        class_embed = [nn.Linear(dim, classes) for _ in range(config.decoder_layers)]
        self.class_embed = nn.ModuleList(class_embed)
        self.embedding = Mlp(dim, dim)
        self.controller = Mlp(dim, MASK_PARAMETERS)
        for layer in class_embed:
            nn.init.constant_(layer.bias, -math.log((1 - _PRIOR) / _PRIOR))
        for layer in self.controller.linears:
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)

    def classify(self, states: Tensor, layer: int = -1) -> Tensor:
        """Map states [N, Q, C] of a decoder layer (the last by default) to class logits [N, Q, classes]."""
        logits: Tensor = self.class_embed[layer](states)
        return logits
