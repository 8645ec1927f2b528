"""The deformable transformer with iterative box refinement (Zhu et al. 2021; docs/idol.md §3.2, §3.3).

Letters: N images, S tokens of all L levels, Q queries, C channels, K decoder layers.
Boxes are cxcywh, references (x, y) or cxcywh; all are in shares of the un-padded image.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from idol_deploy.model.config import ModelConfig
from idol_deploy.model.deform_attn import DeformableAttention
from idol_deploy.model.geometry import Geometry
from idol_deploy.model.heads import Mlp

__all__ = [
    "Decoder",
    "DecoderLayer",
    "DecoderOutput",
    "Encoder",
    "EncoderLayer",
    "SelfAttention",
    "Transformer",
    "inverse_sigmoid",
]


def inverse_sigmoid(x: Tensor, eps: float = 1e-5) -> Tensor:
    """Return log(x / (1 - x)) for x in [0, 1], with x and 1 - x clamped to at least eps."""
    x = x.clamp(0, 1)
    return torch.log(x.clamp(min=eps) / (1 - x).clamp(min=eps))


class SelfAttention(nn.Module):
    """Multi-head attention among queries; positions are added to queries and keys, not to values."""

    def __init__(self, dim: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        # Queries, keys and values, in this order: one matrix, as in nn.MultiheadAttention.
        self.in_proj_weight = nn.Parameter(torch.empty(3 * dim, dim))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * dim))
        self.out_proj = nn.Linear(dim, dim)
        nn.init.xavier_uniform_(self.in_proj_weight)
        nn.init.xavier_uniform_(self.out_proj.weight)
        nn.init.zeros_(self.out_proj.bias)

    def forward(self, x: Tensor, position: Tensor) -> Tensor:
        """Map x [N, Q, C] to the same shape; `position` broadcasts to it."""
        N, Q, C = x.shape
        compare, mix = self.in_proj_weight[: 2 * C], self.in_proj_weight[2 * C :]
        q, k = F.linear(x + position, compare, self.in_proj_bias[: 2 * C]).chunk(2, -1)
        v = F.linear(x, mix, self.in_proj_bias[2 * C :])
        q, k, v = (t.reshape(N, Q, self.heads, -1).transpose(1, 2) for t in (q, k, v))
        dropout = self.dropout if self.training else 0.0
        mixed = F.scaled_dot_product_attention(q, k, v, dropout_p=dropout)
        projected: Tensor = self.out_proj(mixed.transpose(1, 2).reshape(N, Q, C))
        return projected


class EncoderLayer(nn.Module):
    """Deformable self-attention over all tokens, then a feed-forward block; each sum is normalised."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        dim = config.hidden_dim
        self.self_attn = DeformableAttention(dim, config.levels, config.heads, config.points)
        self.norm1 = nn.LayerNorm(dim)
        self.linear1 = nn.Linear(dim, config.ffn_dim)
        self.linear2 = nn.Linear(config.ffn_dim, dim)
        self.norm2 = nn.LayerNorm(dim)
        self.dropout = nn.Dropout(config.dropout)
        nn.init.xavier_uniform_(self.linear1.weight)
        nn.init.xavier_uniform_(self.linear2.weight)

    def forward(self, tokens: Tensor, position: Tensor, geometry: Geometry) -> Tensor:
        """Map tokens [N, S, C] to the same shape."""
        attended = self.self_attn(
            tokens + position, geometry.encoder_reference, tokens, geometry.shapes, geometry.padding
        )
        tokens = self.norm1(tokens + self.dropout(attended))
        hidden = self.linear2(self.dropout(F.relu(self.linear1(tokens))))
        normalised: Tensor = self.norm2(tokens + self.dropout(hidden))
        return normalised


class DecoderLayer(nn.Module):
    """Self-attention among queries, deformable attention to the memory, then a feed-forward block."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        dim = config.hidden_dim
        self.self_attn = SelfAttention(dim, config.heads, config.dropout)
        self.norm2 = nn.LayerNorm(dim)
        self.cross_attn = DeformableAttention(dim, config.levels, config.heads, config.points)
        self.norm1 = nn.LayerNorm(dim)
        self.linear1 = nn.Linear(dim, config.ffn_dim)
        self.linear2 = nn.Linear(config.ffn_dim, dim)
        self.norm3 = nn.LayerNorm(dim)
        self.dropout = nn.Dropout(config.dropout)
        nn.init.xavier_uniform_(self.linear1.weight)
        nn.init.xavier_uniform_(self.linear2.weight)

    def forward(
        self, queries: Tensor, position: Tensor, reference: Tensor, memory: Tensor, geometry: Geometry
    ) -> Tensor:
        """Map queries [N, Q, C] to the same shape; `reference` is [N or 1, Q, L, 2 or 4], shares of the padded map."""
        queries = self.norm2(queries + self.dropout(self.self_attn(queries, position)))
        attended = self.cross_attn(queries + position, reference, memory, geometry.shapes, geometry.padding)
        queries = self.norm1(queries + self.dropout(attended))
        hidden = self.linear2(self.dropout(F.relu(self.linear1(queries))))
        normalised: Tensor = self.norm3(queries + self.dropout(hidden))
        return normalised


class Encoder(nn.Module):
    """The encoder layers in sequence."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(EncoderLayer(config) for _ in range(config.encoder_layers))

    def forward(self, tokens: Tensor, position: Tensor, geometry: Geometry) -> Tensor:
        """Map tokens [N, S, C] to the same shape."""
        for layer in self.layers:
            tokens = layer(tokens, position, geometry)
        return tokens


@dataclass(frozen=True)
class DecoderOutput:
    """Inputs and outputs of the K decoder layers.

    Attributes:
        states: query states [K, N, Q, C] after each layer.
        references: the K references that entered the layers: points [N, Q, 2] at layer 0, boxes [N, Q, 4] after it.
            Only the first has a gradient.
        boxes: boxes [K, N, Q, 4] predicted after each layer; detached, they are the next layer's references.
    """

    states: Tensor
    references: tuple[Tensor, ...]
    boxes: Tensor


class Decoder(nn.Module):
    """The decoder layers, each followed by its own refinement of the boxes."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(DecoderLayer(config) for _ in range(config.decoder_layers))
        refinements = [Mlp(config.hidden_dim, 4) for _ in range(config.decoder_layers)]
        self.bbox_embed = nn.ModuleList(refinements)
        for refine in refinements:
            nn.init.zeros_(refine.linears[-1].weight)
            nn.init.zeros_(refine.linears[-1].bias)
        # Initial boxes: sides of sigmoid(-2) of the image, centred on the reference points.
        nn.init.constant_(refinements[0].linears[-1].bias[2:], -2.0)

    def forward(
        self, queries: Tensor, position: Tensor, reference: Tensor, memory: Tensor, geometry: Geometry
    ) -> DecoderOutput:
        """Run all layers.

        Args:
            queries: initial states [N, Q, C].
            position: position embeddings of the queries, [Q, C].
            reference: initial points [N, Q, 2].
            memory: encoder output [N, S, C].
            geometry: geometry of the memory.
        """
        states, references, boxes = [], [], []
        for layer, refine in zip(self.layers, self.bbox_embed, strict=True):
            ratios = geometry.valid_ratios.repeat(1, 1, reference.shape[-1] // 2)
            queries = layer(queries, position, reference[:, :, None] * ratios[:, None], memory, geometry)
            box = _refined(refine(queries), reference)
            states.append(queries)
            references.append(reference)
            boxes.append(box)
            reference = box.detach()
        return DecoderOutput(torch.stack(states), tuple(references), torch.stack(boxes))


def _refined(delta: Tensor, reference: Tensor) -> Tensor:
    """Apply raw corrections [N, Q, 4] to points or boxes [N, Q, 2 or 4]."""
    logits = F.pad(inverse_sigmoid(reference), (0, 4 - reference.shape[-1]))
    return (delta + logits).sigmoid()


class Transformer(nn.Module):
    """Encoder, query embeddings and decoder."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        dim = config.hidden_dim
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)
        self.level_embed = nn.Parameter(torch.empty(config.levels, dim))
        # The first half is the position, the second half the initial state.
        self.query_embed = nn.Embedding(config.queries, 2 * dim)
        self.reference_points = nn.Linear(dim, 2)
        nn.init.normal_(self.level_embed)
        nn.init.xavier_uniform_(self.reference_points.weight)
        nn.init.zeros_(self.reference_points.bias)

    def encode(self, sources: tuple[Tensor, ...], geometry: Geometry) -> Tensor:
        """Encode the tokens of all levels.

        Args:
            sources: projected feature maps [N, C, h, w], one per level.
            geometry: geometry of N images, or of one image for all.

        Returns:
            The memory [N, S, C], padded tokens included.
        """
        tokens = torch.cat([source.flatten(2).transpose(1, 2) for source in sources], 1)
        levels = [
            embed.expand(h * w, -1) for embed, (h, w) in zip(self.level_embed, geometry.shapes, strict=True)
        ]
        encoded: Tensor = self.encoder(tokens, geometry.position + torch.cat(levels), geometry)
        return encoded

    def decode(self, memory: Tensor, geometry: Geometry) -> DecoderOutput:
        """Decode every query against the memory [N, S, C]."""
        N = memory.shape[0]
        position, state = self.query_embed.weight.chunk(2, -1)
        reference = self._points(position)
        output: DecoderOutput = self.decoder(
            state.expand(N, -1, -1), position, reference.expand(N, -1, -1), memory, geometry
        )
        return output

    def _points(self, position: Tensor) -> Tensor:
        """Compute the initial reference points [Q, 2] of the queries [Q, C].

        This is fp32 under autocast as well: bf16 has steps of 5 pixels at 1333, and these points are the origins of
        layer 0's masks.
        """
        device = position.device.type
        if torch.is_autocast_enabled(device):
            with torch.autocast(device, enabled=False):
                return self._points(position.float())
        points: Tensor = self.reference_points(position).sigmoid()
        return points
