"""The network with its deformable attention as one operator of our own, for graphs that are run with the plugin.

Letters: N images, Q queries, S tokens of all L levels, C channels in M heads, P points per head and level.
"""

import copy

import torch
from torch import Tensor, nn

from idol_deploy.model.deform_attn import DeformableAttention, Shapes
from idol_deploy.model.idol import Idol
from idol_plugins.ort import DOMAIN, OPERATOR, VERSION

__all__ = ["FusedAttention", "with_fused_attention"]


class FusedAttention(nn.Module):
    """A `DeformableAttention` for export: offsets and logits from one linear layer, the rest one ONNX node."""

    def __init__(self, plain: DeformableAttention) -> None:
        super().__init__()
        self.heads, self.points = plain.heads, plain.points
        self.value_proj, self.output_proj = plain.value_proj, plain.output_proj
        parts = (plain.sampling_offsets, plain.attention_weights)
        dim = plain.sampling_offsets.in_features
        # On no device at first: its parameters are the others', joined.
        self.projection = nn.Linear(dim, sum(part.out_features for part in parts), device="meta")
        self.projection.weight = nn.Parameter(torch.cat([part.weight.detach() for part in parts]))
        self.projection.bias = nn.Parameter(torch.cat([part.bias.detach() for part in parts]))

    def forward(
        self,
        query: Tensor,  # [N, Q, C]
        reference: Tensor,  # [N or 1, Q, L, 2 or 4]
        tokens: Tensor,  # [N, S, C]
        shapes: Shapes,
        padding: Tensor | None,  # [N or 1, S]
    ) -> Tensor:
        """As `DeformableAttention.forward`, but only an ONNX exporter can trace it: it computes nothing.

        Returns:
            [N, Q, C].
        """
        value = self.value_proj(tokens)
        if padding is not None:
            value = value.masked_fill(padding[..., None], 0.0)
        mixed = torch.onnx.ops.symbolic(
            f"{DOMAIN}::{OPERATOR}",
            (value.reshape(*value.shape[:2], self.heads, -1), self.projection(query), reference),
            {
                "heads": self.heads,
                "points": self.points,
                "shapes": [side for shape in shapes for side in shape],
            },
            dtype=value.dtype,
            shape=query.shape,
            version=VERSION,
        )
        projected: Tensor = self.output_proj(mixed)
        return projected


def with_fused_attention(model: Idol) -> Idol:
    """A copy of the network with every `DeformableAttention` fused; it shares the other parameters."""
    shared: dict[int, object] = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    fused = copy.deepcopy(model, shared)
    for module in list(fused.modules()):
        for name, child in module.named_children():
            if isinstance(child, DeformableAttention):
                setattr(module, name, FusedAttention(child))
    return fused
