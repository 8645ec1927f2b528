"""Multi-scale deformable attention (Zhu et al. 2021; docs/idol.md §3.2).

Letters: N images, Q queries, S tokens of all L levels, M heads of D channels, P points per head and level.
There are three levels. `ms_deform_attn` samples and mixes; `deformable_attention` first turns raw projections into
locations and weights; the module computes the projections. Locations are (x, y) in shares of the padded map. Raw
projections have the kernel's layout: one row per query, its offsets [M, L, P, 2], then its logits [M, L * P].
"""

import math
from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["AttentionCore", "DeformableAttention", "Shapes", "deformable_attention", "ms_deform_attn"]

Shapes: TypeAlias = tuple[tuple[int, int], ...]
AttentionCore: TypeAlias = Callable[[Tensor, Shapes, Tensor, Tensor], Tensor]


def ms_deform_attn(
    value: Tensor,  # [N, S, M, D]
    shapes: Shapes,
    locations: Tensor,  # [N, Q, M, L, P, 2]
    weights: Tensor,  # [N, Q, M, L, P]
) -> Tensor:
    """Compute weighted sums of bilinear samples; samples outside the maps are zero.

    Args:
        value: sampled values, all levels one after the other.
        shapes: (h, w) of each level.
        locations: (x, y) of the samples; 0 and 1 are the outer edges of the border cells.
        weights: weights of the L * P samples.

    Returns:
        The sums, [N, Q, M * D].
    """
    N, _, M, D = value.shape
    Q, P = locations.shape[1], locations.shape[4]
    grids = (2 * locations - 1).transpose(1, 2).flatten(0, 1)  # [N*M, Q, L, P, 2]
    samples = []
    for level, (part, (h, w)) in enumerate(
        zip(torch.split(value, [h * w for h, w in shapes], 1), shapes, strict=True)
    ):
        maps = part.permute(0, 2, 3, 1).reshape(N * M, D, h, w)
        samples.append(F.grid_sample(maps, grids[:, :, level], padding_mode="zeros", align_corners=False))
    mixed = torch.cat(samples, -1) * weights.transpose(1, 2).reshape(N * M, 1, Q, len(shapes) * P)
    return mixed.sum(-1).reshape(N, M * D, Q).transpose(1, 2)


def deformable_attention(
    value: Tensor,  # [N, S, M, D]
    shapes: Shapes,
    merged: Tensor,  # [N, Q, M * L * P * 3]
    reference: Tensor,  # [N or 1, Q, L, 2 or 4]
    sides: Tensor | None = None,  # [L, 2]
) -> Tensor:
    """Compute deformable attention from raw projections.

    Args:
        value: sampled values, all levels one after the other.
        shapes: (h, w) of each level.
        merged: raw offsets, then raw logits. Offsets are in cells around a reference point, or in 1 / (2 P) of the
            sides of a reference box. Logits are for a softmax over the L * P samples.
        reference: reference points (x, y) or boxes cxcywh, in shares of the padded map.
        sides: (w, h) of each level on the device; None: copied from `shapes`, which a CUDA graph cannot record.

    Returns:
        The attention's output, [N, Q, M * D].
    """
    M, L = value.shape[2], len(shapes)
    N, Q, samples = merged.shape[0], merged.shape[1], merged.shape[2] // 3
    P = samples // (M * L)
    offsets, logits = torch.split(merged, [2 * samples, samples], -1)
    offsets = offsets.reshape(N, Q, M, L, P, 2)
    weights = logits.reshape(N, Q, M, L * P).softmax(-1).reshape(N, Q, M, L, P)
    centre = reference[:, :, None, :, None, :2]
    if reference.shape[-1] == 2:
        if sides is None:
            sides = offsets.new_tensor([[w, h] for h, w in shapes])
        locations = centre + offsets / sides[:, None]
    else:
        locations = centre + offsets / P * reference[:, :, None, :, None, 2:] * 0.5
    return ms_deform_attn(value, shapes, locations, weights)


class DeformableAttention(nn.Module):
    """Attention of each query to a few learnt points of every level.

    Attributes:
        core: function between the projections: `deformable_attention` or the compiled operator.
    """

    def __init__(self, dim: int, levels: int, heads: int, points: int) -> None:
        super().__init__()
        self.levels, self.heads, self.points = levels, heads, points
        self.sampling_offsets = nn.Linear(dim, heads * levels * points * 2)
        self.attention_weights = nn.Linear(dim, heads * levels * points)
        self.value_proj = nn.Linear(dim, dim)
        self.output_proj = nn.Linear(dim, dim)
        self.core: AttentionCore = deformable_attention
        self._reset()

    def forward(
        self,
        query: Tensor,  # [N, Q, C]
        reference: Tensor,  # [N or 1, Q, L, 2 or 4]
        tokens: Tensor,  # [N, S, C]
        shapes: Shapes,
        padding: Tensor | None,  # [N or 1, S]
    ) -> Tensor:
        """Attend to `tokens`; padded tokens count as zero.

        Returns:
            The attention's output, [N, Q, C].
        """
        value = self.value_proj(tokens)
        if padding is not None:
            value = value.masked_fill(padding[..., None], 0.0)
        value = value.reshape(*value.shape[:2], self.heads, -1)
        merged = self._project(query)
        projected: Tensor = self.output_proj(self.core(value, shapes, merged, reference))
        return projected

    def _project(self, query: Tensor) -> Tensor:
        """Compute offsets and logits as one product, [N, Q, M * L * P * 3]: the kernel reads one row per query.

        Under bf16 autocast this is fp32, because a bf16 offset of 8 cells has steps of 1/16 cell.
        """
        parts = (self.sampling_offsets, self.attention_weights)
        weight, bias = (torch.cat([getattr(part, name) for part in parts]) for name in ("weight", "bias"))
        device = query.device.type
        if not (torch.is_autocast_enabled(device) and torch.get_autocast_dtype(device) == torch.bfloat16):
            return F.linear(query, weight, bias)
        with torch.autocast(device, enabled=False):
            return F.linear(query.float(), weight.float(), bias.float())

    def _reset(self) -> None:
        """Initialise head h to look in direction h, its point p at distance p, all with equal weight."""
        angle = torch.arange(self.heads) * (2 * math.pi / self.heads)
        direction = torch.stack((angle.cos(), angle.sin()), -1)
        direction = direction / direction.abs().amax(-1, keepdim=True)
        distance = torch.arange(1, self.points + 1)
        ring = direction[:, None, None] * distance[None, None, :, None]
        with torch.no_grad():
            self.sampling_offsets.bias.copy_(ring.expand(-1, self.levels, -1, -1).flatten())
        nn.init.zeros_(self.sampling_offsets.weight)
        nn.init.zeros_(self.attention_weights.weight)
        nn.init.zeros_(self.attention_weights.bias)
        for projection in (self.value_proj, self.output_proj):
            nn.init.xavier_uniform_(projection.weight)
            nn.init.zeros_(projection.bias)
