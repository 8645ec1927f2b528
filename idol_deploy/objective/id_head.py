"""The paper's baseline for the embedding: a linear classifier over the identities of the training set.

It is trained on the very embedding that association uses, in place of the contrastive loss, and thrown away after.
Letters: C channels of the embedding, I identities.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from idol_runtime.errors import ConfigError

__all__ = ["UNKNOWN", "IdHead"]

UNKNOWN = -1  # an instance that is no identity of the training set


class IdHead(nn.Module):
    """Embeddings [..., C] to logits [..., I]."""

    def __init__(self, dim: int, identities: int) -> None:
        super().__init__()
        if identities < 1:
            raise ConfigError(
                f"an identity head needs the number of training identities, got {identities}; count them in the "
                "annotations, or train with embedding='contrastive'"
            )
        self.classify = nn.Linear(dim, identities)

    def forward(self, embeddings: Tensor) -> Tensor:
        """Logits [..., I] of embeddings [..., C]."""
        logits: Tensor = self.classify(embeddings)
        return logits

    def loss(
        self,
        embeddings: Tensor,  # [..., C]
        identities: Tensor,  # [...] int64
        counted: Tensor,  # [...] bool
    ) -> tuple[Tensor, Tensor]:
        """Sum of the cross-entropies of those that count and are known, a scalar; and how many there are."""
        counted = counted & (identities != UNKNOWN)
        wanted = identities.where(counted, torch.zeros_like(identities)).flatten()
        entropy = F.cross_entropy(self(embeddings).float().flatten(0, -2), wanted, reduction="none")
        return entropy.where(counted.flatten(), 0.0).sum(), counted.sum()
