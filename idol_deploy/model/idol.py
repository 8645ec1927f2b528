"""IDOL: backbone, neck, deformable transformer, heads (Wu et al. 2022; docs/idol.md §3).

Letters: N images, H x W padded pixels, Q queries, K classes, C channels, h x w cells of stride 8.
"""

from dataclasses import dataclass

from torch import Tensor, nn

from idol_deploy.config import IdolConfig
from idol_deploy.model.backbones.base import build_backbone
from idol_deploy.model.geometry import Geometry, build_geometry
from idol_deploy.model.heads import Heads
from idol_deploy.model.mask_head import MaskHead
from idol_deploy.model.neck import Neck
from idol_deploy.model.transformer import DecoderOutput, Transformer

__all__ = ["Idol", "IdolOutput"]


@dataclass(frozen=True)
class IdolOutput:
    """Predictions of the last decoder layer, and what all layers said.

    Attributes:
        logits: class logits [N, Q, K].
        boxes: cxcywh [N, Q, 4], in shares of the un-padded image.
        embeddings: instance embeddings [N, Q, C], not normalised.
        mask_features: [N, 8, h, w].
        mask_params: [N, Q, 169] of each query's mask network.
        mask_reference: (x, y) [N, Q, 2] of each mask's origin, in shares of the un-padded image; multiply by
            its (width, height) for `MaskHead.decode`.
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
    """The network; `forward` is backbone -> neck -> encode -> decode -> predict, each usable by itself.

    Attributes:
        config: what it was built from.
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
        """Every query of every image.

        Args:
            images: float [N, 3, H, W], normalised, then zero-padded at the right and bottom.
            padding_mask: bool [N, H, W], True at padded pixels.
        """
        return self.answer(images, build_geometry(padding_mask, self.config.model.hidden_dim))

    def answer(self, images: Tensor, geometry: Geometry) -> IdolOutput:
        """`forward` but for the geometry, which reads values: one graph, whoever traces it.

        Args:
            images: as of `forward`.
            geometry: of their padding.
        """
        sources = self.neck(self.backbone(images))
        memory = self.transformer.encode(sources, geometry)
        return self.predict(memory, self.transformer.decode(memory, geometry), geometry)

    def predict(self, memory: Tensor, decoder: DecoderOutput, geometry: Geometry) -> IdolOutput:
        """The heads, on the last decoder layer.

        Args:
            memory: the encoder's output [N, S, C].
            decoder: the decoder's output.
            geometry: of the memory.
        """
        states = decoder.states[-1]
        return IdolOutput(
            logits=self.heads.classify(states),
            boxes=decoder.boxes[-1],
            embeddings=self.heads.embedding(states),
            mask_features=self.mask_head.features(memory, geometry),
            mask_params=self.heads.controller(states),
            # The published code takes the point that entered the last layer, not the one that left it.
            mask_reference=decoder.references[-1][..., :2],
            decoder=decoder,
        )
