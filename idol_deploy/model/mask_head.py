"""Mask head: features shared by an image, and one small network per query (Tian et al. 2020; docs/idol.md §3.4).

Letters: N images, n queries, C channels, h x w cells of stride 8.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from idol_deploy.model.geometry import Geometry

__all__ = ["MASK_CHANNELS", "MASK_PARAMETERS", "MaskHead", "aligned_bilinear"]

MASK_CHANNELS = 8
_STRIDE = 8
_WEIGHTS = (MASK_CHANNELS * (MASK_CHANNELS + 2), MASK_CHANNELS * MASK_CHANNELS, MASK_CHANNELS)
_BIASES = (MASK_CHANNELS, MASK_CHANNELS, 1)
# 80 + 64 + 8 weights (output channel major), then 8 + 8 + 1 biases.
MASK_PARAMETERS = sum(_WEIGHTS) + sum(_BIASES)


def aligned_bilinear(x: Tensor) -> Tensor:
    """Double the sides of [..., h, w]; odd rows and columns are copies, even ones averages of their neighbours.

    Row 2i + 1 of the result is row i of x, row 2i the mean of rows i - 1 and i; row 0 repeats the border.
    """
    return _double(_double(x, -1), -2)


def _double(x: Tensor, dim: int) -> Tensor:
    size = x.shape[dim]
    before = torch.cat((x.narrow(dim, 0, 1), x.narrow(dim, 0, size - 1)), dim)
    return torch.stack(((before + x) * 0.5, x), dim).flatten(dim - 1, dim)


class MaskHead(nn.Module):
    """The mask features of an image, and the masks of its queries.

    The five convolutions have their published names; `dcn` is a plain convolution nevertheless.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.lay3 = _conv(dim, dim)
        self.lay4 = _conv(dim, dim)
        self.dcn = _conv(dim, dim)
        self.lay1 = _conv(dim, dim // 4)
        self.lay2 = _conv(dim // 4, MASK_CHANNELS)

    def features(self, memory: Tensor, geometry: Geometry) -> Tensor:
        """Compute mask features [N, 8, h, w] (stride 8) from the encoder output [N, S, C]."""
        sizes = [h * w for h, w in geometry.shapes]
        levels = zip(torch.split(memory, sizes, 1), geometry.shapes, strict=True)
        maps = [part.transpose(1, 2).reshape(part.shape[0], -1, h, w) for part, (h, w) in levels]
        return self.fuse(maps[0], maps[1], maps[2])

    def fuse(self, stride8: Tensor, stride16: Tensor, stride32: Tensor) -> Tensor:
        """Compute mask features [N, 8, h, w] from three maps [N, C, ...], coarse to fine."""
        x = F.relu(self.lay3(stride32))
        x = F.relu(self.lay4(stride16 + F.interpolate(x, size=stride16.shape[-2:], mode="nearest")))
        x = F.relu(self.dcn(stride8 + F.interpolate(x, size=stride8.shape[-2:], mode="nearest")))
        x = F.relu(self.lay1(x))
        return F.relu(self.lay2(x))

    def decode(
        self,
        features: Tensor,  # [N, 8, h, w]
        params: Tensor,  # [N, n, 169]
        reference_px: Tensor,  # [N, n, 2]
    ) -> Tensor:
        """Compute the mask logits of queries.

        Args:
            features: mask features of the images.
            params: parameters of each query's network: 10 -> 8 -> 8 -> 1 channels with relu between.
            reference_px: (x, y) of each query's reference point, in pixels of the network's input.

        Returns:
            Mask logits [N, n, 2 h, 2 w] of stride 4, padding included.
        """
        N, _, h, w = features.shape
        n = params.shape[1]
        w1, w2, w3, b1, b2, b3 = torch.split(params, [*_WEIGHTS, *_BIASES], -1)
        w1 = w1.reshape(N, n, MASK_CHANNELS, MASK_CHANNELS + 2)
        w2 = w2.reshape(N, n, MASK_CHANNELS, MASK_CHANNELS)
        relative = reference_px[..., None] - _centres(h, w, reference_px)  # [N, n, 2, h*w]
        # All queries share the features: one product serves them all; the relative coordinates are added after it.
        shared = w1[..., 2:].flatten(1, 2) @ features.flatten(2)
        x = shared.reshape(N, n, MASK_CHANNELS, h * w) + w1[..., :2] @ relative
        x = F.relu(x + b1[..., None])
        x = F.relu(w2 @ x + b2[..., None])
        logits = w3[..., None, :] @ x + b3[..., None]
        return aligned_bilinear(logits.reshape(N, n, h, w))


def _centres(height: int, width: int, like: Tensor) -> Tensor:
    """Return (x, y) [2, height * width] of the cells' centres, in pixels of the network's input."""
    x = torch.arange(width, dtype=like.dtype, device=like.device) * _STRIDE + _STRIDE // 2
    y = torch.arange(height, dtype=like.dtype, device=like.device) * _STRIDE + _STRIDE // 2
    return torch.stack((x.repeat(height), y.repeat_interleave(width)))


def _conv(inputs: int, outputs: int) -> nn.Conv2d:
    conv = nn.Conv2d(inputs, outputs, kernel_size=3, padding=1)
    nn.init.kaiming_uniform_(conv.weight, a=1)
    assert conv.bias is not None
    nn.init.zeros_(conv.bias)
    return conv
