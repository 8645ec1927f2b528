"""Per-query heads: classes, embedding and the parameters of the query's mask network (docs/idol.md §3.4).

The boxes are not here: the decoder refines them layer by layer.
"""

import math

from torch import Tensor, nn

from idol_deploy.model.config import ModelConfig
from idol_deploy.model.embed_head import EmbedHead
from idol_deploy.model.mask_head import MASK_PARAMETERS
from idol_deploy.model.mlp import Mlp

__all__ = ["Heads"]

# Share of foreground that the untrained class head predicts (Lin et al. 2017).
_PRIOR = 0.01


class Heads(nn.Module):
    """One class head per decoder layer; one embedding head and one mask controller for all.

    Attributes:
        class_embed: states of layer k to class logits, no background class.
        embedding: states to embeddings.
        controller: states to the 169 parameters of each query's mask network.
    """

    def __init__(self, config: ModelConfig, classes: int) -> None:
        super().__init__()
        dim = config.hidden_dim
        class_embed = [nn.Linear(dim, classes) for _ in range(config.decoder_layers)]
        self.class_embed = nn.ModuleList(class_embed)
        self.embedding = EmbedHead(dim)
        self.controller = Mlp(dim, MASK_PARAMETERS)
        for layer in class_embed:
            nn.init.constant_(layer.bias, -math.log((1 - _PRIOR) / _PRIOR))
        for layer in self.controller.linears:
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)

    def classify(self, states: Tensor, layer: int = -1) -> Tensor:
        """Class logits [N, Q, classes] of the states [N, Q, C] of one decoder layer; the last by default."""
        logits: Tensor = self.class_embed[layer](states)
        return logits
