"""The exact graph that trains: batch in, losses out; an adapter around the network, which does not know of it.

As one module, so that DistributedDataParallel sees every parameter that a step uses.
"""

from torch import nn

from idol_deploy.model.idol import Idol
from idol_deploy.model.pairs import forward_pairs, normalise
from idol_deploy.objective.batch import Batch
from idol_deploy.objective.criterion import Criterion, Losses

__all__ = ["TrainingGraph"]


class TrainingGraph(nn.Module):
    """Normalises frames, runs the network on pairs of them, and compares with what is annotated."""

    def __init__(self, model: Idol, criterion: Criterion) -> None:
        super().__init__()
        self.model = model
        self.criterion = criterion

    def forward(self, batch: Batch) -> Losses:
        """All losses of a batch."""
        images = normalise(self.model, batch.images, batch.padding_mask)
        output = forward_pairs(self.model, images, batch.padding_mask, both_directions=batch.both_directions)
        losses: Losses = self.criterion(self.model, output, batch.targets)
        return losses
