"""The identity head, the paper's baseline for the embedding: a linear classifier over the training identities.

It replaces the contrastive loss in training and is not part of the exported network. Letters: C channels of the
embedding, I identities.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from idol_runtime.errors import ConfigError

__all__ = ["UNKNOWN", "IdHead"]

UNKNOWN = -1  # an instance without an identity of the training set


class IdHead(nn.Module):
    """A linear classifier from embeddings [..., C] to logits [..., I]."""

    def __init__(self, dim: int, identities: int) -> None:
        super().__init__()
        if identities < 1:
            raise ConfigError(
                f"an identity head needs the number of training identities, got {identities}; count them in the "
                "annotations, or train with embedding='contrastive'"
            )
        self.classify = nn.Linear(dim, identities)

    def loss(
        self,
        embeddings: Tensor,  # [..., C]
        identities: Tensor,  # [...] int64
        counted: Tensor,  # [...] bool
    ) -> tuple[Tensor, Tensor]:
        """Sum the cross-entropy over the counted embeddings of known identity; return the scalar and their number."""
        counted = counted & (identities != UNKNOWN)
        targets = identities.where(counted, torch.zeros_like(identities)).flatten()
        entropy = F.cross_entropy(self.classify(embeddings).float().flatten(0, -2), targets, reduction="none")
        return entropy.where(counted.flatten(), 0.0).sum(), counted.sum()
