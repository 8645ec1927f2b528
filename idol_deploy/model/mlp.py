"""The small perceptron that boxes, embeddings and mask parameters share."""

from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["Mlp"]


class Mlp(nn.Module):
    """Linear layers with relu between: dim -> dim -> dim -> outputs."""

    def __init__(self, dim: int, outputs: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList((nn.Linear(dim, dim), nn.Linear(dim, dim), nn.Linear(dim, outputs)))

    @property
    def linears(self) -> tuple[nn.Linear, ...]:
        """The layers, typed."""
        return tuple(layer for layer in self.layers if isinstance(layer, nn.Linear))

    def forward(self, x: Tensor) -> Tensor:
        """Maps [..., dim] to [..., outputs]."""
        *hidden, last = self.layers
        for layer in hidden:
            x = F.relu(layer(x))
        outputs: Tensor = last(x)
        return outputs
