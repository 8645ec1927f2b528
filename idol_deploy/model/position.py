"""Sine position code of a padded feature map (Carion et al. 2020; docs/idol.md §3.1)."""

import math

import torch
from torch import Tensor

__all__ = ["sine_position"]

_TEMPERATURE = 10000.0


def sine_position(padding: Tensor, channels: int = 256) -> Tensor:
    """Position code: half of the channels for y, then half for x, sine and cosine alternating.

    Positions are shares of the un-padded extent, times 2 pi, so that the code of an image does not depend
    on the padding beside it.

    Args:
        padding: bool [N, H, W], True where padded.
        channels: of the code; a multiple of 4.

    Returns:
        float32 [N, channels, H, W].
    """
    half = channels // 2
    valid = ~padding
    exponent = 2 * (torch.arange(half, dtype=torch.float32, device=padding.device) // 2) / half
    period = _TEMPERATURE**exponent
    codes = []
    for axis in (1, 2):
        count = valid.cumsum(axis, dtype=torch.float32)
        last = count.narrow(axis, count.shape[axis] - 1, 1)
        angle = ((count - 0.5) / (last + 1e-6) * (2 * math.pi))[..., None] / period
        codes.append(torch.stack((angle[..., 0::2].sin(), angle[..., 1::2].cos()), -1).flatten(-2))
    return torch.cat(codes, -1).permute(0, 3, 1, 2)
