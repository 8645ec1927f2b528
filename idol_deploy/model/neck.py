"""From the backbone's channels to the transformer's, and one level more (docs/idol.md §3.1)."""

from torch import Tensor, nn

__all__ = ["Neck"]


class Neck(nn.Module):
    """1x1 convolutions on res3, res4 and res5, and a 3x3 of stride 2 on raw res5; GroupNorm after each."""

    def __init__(self, channels: tuple[int, int, int, int], dim: int) -> None:
        super().__init__()
        _, res3, res4, res5 = channels
        self.projections = nn.ModuleList(
            (_project(res3, dim, 1), _project(res4, dim, 1), _project(res5, dim, 1), _project(res5, dim, 3))
        )

    def forward(self, features: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Maps (res2, res3, res4, res5) to four maps [N, dim, h, w] of strides 8, 16, 32, 64."""
        _, res3, res4, res5 = features
        inputs = (res3, res4, res5, res5)
        return tuple(project(x) for project, x in zip(self.projections, inputs, strict=True))


def _project(inputs: int, outputs: int, kernel: int) -> nn.Sequential:
    stride = 1 if kernel == 1 else 2
    conv = nn.Conv2d(inputs, outputs, kernel, stride=stride, padding=kernel // 2)
    nn.init.xavier_uniform_(conv.weight)
    assert conv.bias is not None
    nn.init.zeros_(conv.bias)
    return nn.Sequential(conv, nn.GroupNorm(32, outputs))
