"""Everything in the network that depends only on sizes and padding, computed once per batch (or per export).

Letters: N images, S = sum of h*w tokens over the L levels, level 0 (stride 8) first, each row-major.
A geometry of one image serves a batch of any size: every use of it broadcasts.
Source: docs/idol.md §2 (3), §3.1, §3.2.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from idol_deploy.model.position import sine_position

__all__ = ["Geometry", "build_geometry", "level_shapes", "padding_mask"]

_STRIDES = (8, 16, 32, 64)


@dataclass(frozen=True)
class Geometry:
    """Sizes, padding and what follows from them.

    Attributes:
        shapes: (h, w) per level.
        padding: bool [N, S], True at padded tokens; None when nothing is padded.
        position: sine code [N, S, C], without the learnt level embedding.
        encoder_reference: [N, S, L, 2] (x, y) of each token in each level, in shares of the padded map.
        valid_ratios: [N, L, 2] un-padded share of each level's (width, height).
    """

    shapes: tuple[tuple[int, int], ...]
    padding: Tensor | None
    position: Tensor
    encoder_reference: Tensor
    valid_ratios: Tensor


def level_shapes(height: int, width: int) -> tuple[tuple[int, int], ...]:
    """(h, w) of each level for a padded input of height x width pixels."""
    return tuple((-(-height // stride), -(-width // stride)) for stride in _STRIDES)


def padding_mask(size: tuple[int, int], padded_size: tuple[int, int], images: int = 1) -> Tensor:
    """Bool [images, H, W], True outside the (h, w) pixels at the top left of padded images of (H, W)."""
    mask = torch.ones(images, *padded_size, dtype=torch.bool)
    mask[:, : size[0], : size[1]] = False
    return mask


def build_geometry(padding_mask: Tensor, channels: int = 256) -> Geometry:
    """The geometry of padded images.

    Reads the mask's values (to learn whether anything is padded), so call it outside of traced code.

    Args:
        padding_mask: bool [N, H, W], True at padded pixels.
        channels: of the position code.
    """
    shapes = level_shapes(*padding_mask.shape[-2:])
    masks = _level_masks(padding_mask, shapes)
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


def _level_masks(padding_mask: Tensor, shapes: tuple[tuple[int, int], ...]) -> list[Tensor]:
    masks = [_shrink(padding_mask, shape) for shape in shapes[:3]]
    # Stride 64 has no backbone output: the published code shrinks the stride-8 mask, which rounds otherwise.
    return [*masks, _shrink(masks[0], shapes[3])]


def _shrink(mask: Tensor, shape: tuple[int, int]) -> Tensor:
    return F.interpolate(mask[None].float(), size=shape, mode="nearest")[0].bool()


def _valid_ratio(mask: Tensor) -> Tensor:
    """[N, H, W] to [N, 2]: un-padded share of the first row, and of the first column."""
    _, H, W = mask.shape
    valid = (~mask).float()
    return torch.stack((valid[:, 0].sum(1) / W, valid[:, :, 0].sum(1) / H), -1)


def _centres(mask: Tensor, ratio: Tensor) -> Tensor:
    """Cell centres [N, H*W, 2] (x, y), in shares of the un-padded map."""
    _, H, W = mask.shape
    y = torch.arange(H, dtype=torch.float32, device=mask.device) + 0.5
    x = torch.arange(W, dtype=torch.float32, device=mask.device) + 0.5
    y = y.repeat_interleave(W) / (ratio[:, 1:] * H)
    x = x.repeat(H) / (ratio[:, :1] * W)
    return torch.stack((x, y), -1)
