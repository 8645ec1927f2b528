"""The IDOL network: backbone, neck, deformable transformer and heads (Wu et al. 2022; docs/idol.md §3).

Letters: N images, H x W padded pixels, Q queries, K classes, C channels, h x w cells of stride 8.
"""

from dataclasses import dataclass

from torch import Tensor, nn

from idol_deploy.config import IdolConfig
from idol_deploy.model.backbones.base import build_backbone
from idol_deploy.model.geometry import Geometry, build_geometry
from idol_deploy.model.heads import Heads
from idol_deploy.model.mask_head import MaskHead
from idol_deploy.model.transformer import DecoderOutput, Transformer

__all__ = ["Idol", "IdolOutput", "Neck"]


class Neck(nn.Module):
    """Projections to the transformer's channels (docs/idol.md §3.1).

    1x1 convolutions on res3, res4 and res5, and a 3x3 of stride 2 on res5 for the fourth level; GroupNorm after each.
    """

    def __init__(self, channels: tuple[int, int, int, int], dim: int) -> None:
        super().__init__()
        _, res3, res4, res5 = channels
        self.projections = nn.ModuleList(
            (_project(res3, dim, 1), _project(res4, dim, 1), _project(res5, dim, 1), _project(res5, dim, 3))
        )

    def forward(self, features: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Map (res2, res3, res4, res5) to four maps [N, dim, h, w] of strides 8, 16, 32, 64."""
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


@dataclass(frozen=True)
class IdolOutput:
    """Predictions of the last decoder layer.

    Attributes:
        logits: class logits [N, Q, K].
        boxes: cxcywh [N, Q, 4], in shares of the un-padded image.
        embeddings: instance embeddings [N, Q, C], not normalised.
        mask_features: mask features [N, 8, h, w] of the images.
        mask_params: parameters [N, Q, 169] of each query's mask network.
        mask_reference: (x, y) [N, Q, 2] of each mask's origin, in shares of the un-padded image; `MaskHead.decode`
            takes it in pixels.
        decoder: states, references and boxes of every decoder layer.
    """

    logits: Tensor
    boxes: Tensor
    embeddings: Tensor
    mask_features: Tensor
    mask_params: Tensor
    mask_reference: Tensor
    decoder: DecoderOutput


class Idol(nn.Module):
    """The network; `forward` is backbone -> neck -> encode -> decode -> predict.

    Attributes:
        config: configuration that the network was built from.
    """

    def __init__(self, config: IdolConfig) -> None:
        super().__init__()
        model = config.model
        self.config = config
        self.backbone = build_backbone(model.backbone)
        self.neck = Neck(model.backbone.channels, model.hidden_dim)
        self.transformer = Transformer(model)
        self.heads = Heads(model, len(config.classes))
        self.mask_head = MaskHead(model.hidden_dim)

    def forward(self, images: Tensor, padding_mask: Tensor) -> IdolOutput:
        """Run the network on images of one padded size.

        Args:
            images: float [N, 3, H, W], normalised, then zero-padded at the right and bottom.
            padding_mask: bool [N, H, W], True at padded pixels.
        """
        return self.forward_with_geometry(images, build_geometry(padding_mask, self.config.model.hidden_dim))

    def forward_with_geometry(self, images: Tensor, geometry: Geometry) -> IdolOutput:
        """Run the network with a given geometry; unlike `forward`, this can be traced as one graph.

        Args:
            images: float [N, 3, H, W], normalised, then zero-padded at the right and bottom.
            geometry: geometry of the images' padding.
        """
        sources = self.neck(self.backbone(images))
        memory = self.transformer.encode(sources, geometry)
        return self.predict(memory, self.transformer.decode(memory, geometry), geometry)

    def predict(self, memory: Tensor, decoder: DecoderOutput, geometry: Geometry) -> IdolOutput:
        """Run the heads on the last decoder layer.

        Args:
            memory: encoder output [N, S, C].
            decoder: decoder output.
            geometry: geometry of the memory.
        """
        states = decoder.states[-1]
        return IdolOutput(
            logits=self.heads.classify(states),
            boxes=decoder.boxes[-1],
            embeddings=self.heads.embedding(states),
            mask_features=self.mask_head.features(memory, geometry),
            mask_params=self.heads.controller(states),
            # As published: the point that entered the last layer, not the one that left it.
            mask_reference=decoder.references[-1][..., :2],
            decoder=decoder,
        )
