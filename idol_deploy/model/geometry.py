"""Position codes, reference points and masks, which depend only on sizes and padding.

They are computed once per batch, or once per export. Letters: N images, C channels, S tokens (the sum of h*w over the
L levels, level 0 of stride 8 first, each row-major). A geometry of one image serves a batch of any size, because every
use of it broadcasts. Source: docs/idol.md §2 (3), §3.1, §3.2.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["Geometry", "build_geometry", "level_shapes", "padding_mask", "sine_position"]

_STRIDES = (8, 16, 32, 64)
_TEMPERATURE = 10000.0


@dataclass(frozen=True)
class Geometry:
    """Sizes and padding of the feature levels, and the values derived from them.

    Attributes:
        shapes: (h, w) of each level.
        padding: padding of the tokens, bool [N, S]; None if nothing is padded.
        position: sine position code [N, S, C], without the learnt level embedding.
        encoder_reference: (x, y) [N, S, L, 2] of each token in each level, in shares of the padded map.
        valid_ratios: un-padded share [N, L, 2] of each level's (width, height).
    """

    shapes: tuple[tuple[int, int], ...]
    padding: Tensor | None
    position: Tensor
    encoder_reference: Tensor
    valid_ratios: Tensor


def level_shapes(height: int, width: int) -> tuple[tuple[int, int], ...]:
    """Return (h, w) of each level for a padded input of height x width pixels."""
    return tuple((-(-height // stride), -(-width // stride)) for stride in _STRIDES)


def padding_mask(size: tuple[int, int], padded_size: tuple[int, int], images: int = 1) -> Tensor:
    """Return bool [images, H, W], True outside the (h, w) pixels at the top left of padded (H, W) images."""
    mask = torch.ones(images, *padded_size, dtype=torch.bool)
    mask[:, : size[0], : size[1]] = False
    return mask


def sine_position(padding: Tensor, channels: int = 256) -> Tensor:
    """Compute the sine position code of padded feature maps (Carion et al. 2020).

    Half of the channels encode y, the other half x; sine and cosine alternate. Positions are shares of the un-padded
    extent times 2 pi, so the code of an image does not depend on its padding.

    Args:
        padding: bool [N, H, W], True at padded cells.
        channels: number of channels of the code; a multiple of 4.

    Returns:
        The code, float32 [N, channels, H, W].
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


def build_geometry(padding_mask: Tensor, channels: int = 256) -> Geometry:
    """Compute the geometry of padded images.

    It reads the mask's values to detect padding, so call it outside of traced code.

    Args:
        padding_mask: bool [N, H, W], True at padded pixels.
        channels: number of channels of the position code.
    """
    shapes = level_shapes(*padding_mask.shape[-2:])
    masks = [_shrink(padding_mask, shape) for shape in shapes[:3]]
    # Stride 64 has no backbone output: the published code shrinks the stride-8 mask, which rounds differently.
    masks.append(_shrink(masks[0], shapes[3]))
    padding = torch.cat([mask.flatten(1) for mask in masks], 1)
    ratios = torch.stack([_valid_ratio(mask) for mask in masks], 1)
    centres = [_centres(mask, ratios[:, level]) for level, mask in enumerate(masks)]
    codes = [sine_position(mask, channels).flatten(2).transpose(1, 2) for mask in masks]
    return Geometry(
        shapes=shapes,
        padding=padding if bool(padding.any()) else None,
        position=torch.cat(codes, 1),
        encoder_reference=torch.cat(centres, 1)[:, :, None] * ratios[:, None],
        valid_ratios=ratios,
    )


def _shrink(mask: Tensor, shape: tuple[int, int]) -> Tensor:
    return F.interpolate(mask[None].float(), size=shape, mode="nearest")[0].bool()


def _valid_ratio(mask: Tensor) -> Tensor:
    """Return the un-padded share of the first row and of the first column: [N, H, W] to [N, 2]."""
    _, H, W = mask.shape
    valid = (~mask).float()
    return torch.stack((valid[:, 0].sum(1) / W, valid[:, :, 0].sum(1) / H), -1)


def _centres(mask: Tensor, ratio: Tensor) -> Tensor:
    """Return the cell centres (x, y) [N, H*W, 2], in shares of the un-padded map."""
    _, H, W = mask.shape
    y = torch.arange(H, dtype=torch.float32, device=mask.device) + 0.5
    x = torch.arange(W, dtype=torch.float32, device=mask.device) + 0.5
    y = y.repeat_interleave(W) / (ratio[:, 1:] * H)
    x = x.repeat(H) / (ratio[:, :1] * W)
    return torch.stack((x, y), -1)
