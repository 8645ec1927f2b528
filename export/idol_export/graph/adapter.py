"""The export adapter around the network, which defines the graph that ships.

Letters: N frames, h x w pixels of the network input before padding, Q queries.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from idol_deploy.model.geometry import Geometry, build_geometry, padding_mask
from idol_deploy.model.idol import Idol
from idol_runtime.bundle.bundle import OUTPUT_NAMES

__all__ = ["STAGES", "ExportGraph"]

# Intermediate values of the parity check, in the order of computation.
STAGES = ("preprocess", "backbone", "neck", "encoder", "decoder")


class ExportGraph(nn.Module):
    """An adapter from resized uint8 frames to the outputs of `idol_runtime.tracking.detection.NetworkOutput`.

    Normalisation and padding are part of the graph, so that the host copies bytes and not floats. Values that depend on
    the frame size alone (padding mask, position codes, encoder reference points, valid ratios) are computed once and
    become constants. The graph computes no masks, because the host decodes those of the selected queries only.

    Args:
        model: network to export.
        network_size: (h, w) of the network input before padding.
    """

    mean: Tensor
    std: Tensor
    pixels: Tensor
    geometry_padding: Tensor | None
    geometry_position: Tensor
    geometry_encoder_reference: Tensor
    geometry_valid_ratios: Tensor

    def __init__(self, model: Idol, network_size: tuple[int, int]) -> None:
        super().__init__()
        self.model = model.eval()
        self.network_size = network_size
        preprocessing = model.config.preprocessing
        height, width = network_size
        padded_height, padded_width = preprocessing.padded_size(height, width)
        self.padding = (0, padded_width - width, 0, padded_height - height)
        self.register_buffer("mean", torch.tensor(preprocessing.mean)[:, None, None])
        self.register_buffer("std", torch.tensor(preprocessing.std)[:, None, None])
        self.register_buffer("pixels", torch.tensor([float(width), float(height)]))
        mask = padding_mask(network_size, (padded_height, padded_width))
        geometry = build_geometry(mask, model.config.model.hidden_dim)
        self._shapes = geometry.shapes
        for name in ("padding", "position", "encoder_reference", "valid_ratios"):
            self.register_buffer(f"geometry_{name}", getattr(geometry, name))

    @property
    def geometry(self) -> Geometry:
        """Geometry of one frame; it broadcasts over the batch."""
        return Geometry(
            shapes=self._shapes,
            padding=self.geometry_padding,
            position=self.geometry_position,
            encoder_reference=self.geometry_encoder_reference,
            valid_ratios=self.geometry_valid_ratios,
        )

    def run(
        self,
        image: Tensor,  # [N, h, w, 3] uint8 RGB
    ) -> Mapping[str, Tensor]:
        """Return every stage and every output by name."""
        # The cast comes first: TensorRT accepts uint8 only for inputs, and only a cast may read them.
        pixels = image.float().permute(0, 3, 1, 2)
        x = F.pad((pixels - self.mean) / self.std, self.padding)
        features = self.model.backbone(x)
        sources = self.model.neck(features)
        memory = self.model.transformer.encode(sources, self.geometry)
        decoder = self.model.transformer.decode(memory, self.geometry)
        output = self.model.predict(memory, decoder, self.geometry)
        return {
            "preprocess": x,
            "backbone": features[-1],
            "neck": torch.cat([source.flatten(2) for source in sources], 2),
            "encoder": memory,
            "decoder": decoder.states[-1],
            "logits": output.logits,
            "boxes": output.boxes,
            "embeddings": output.embeddings,
            "mask_features": output.mask_features,
            "mask_params": output.mask_params,
            "mask_reference": output.mask_reference * self.pixels,
        }

    def forward(
        self,
        image: Tensor,  # [N, h, w, 3] uint8 RGB
    ) -> tuple[Tensor, ...]:
        """Return the stages, then the six outputs; `tracing.shipped` drops the stages."""
        tensors = self.run(image)
        return tuple(tensors[name] for name in (*STAGES, *OUTPUT_NAMES))
