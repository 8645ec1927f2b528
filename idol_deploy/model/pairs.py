"""An adapter that runs the network on pairs of frames and returns the outputs that the losses need.

Letters: N pairs, L decoder layers, Q queries, K classes, C channels, H x W padded pixels, h x w cells of stride 8.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from idol_deploy.model.geometry import Geometry, build_geometry
from idol_deploy.model.idol import Idol
from idol_deploy.model.transformer import DecoderOutput

__all__ = ["PairOutput", "forward_pairs", "normalise"]


@dataclass(frozen=True)
class PairOutput:
    """Network outputs of the key frames, for every decoder layer, and of the reference frames, for the last layer.

    Attributes:
        logits: class logits [L, N, Q, K] of the key frames.
        boxes: cxcywh [L, N, Q, 4] of the key frames, in shares of the un-padded frame.
        states: query states [L, N, Q, C] of the key frames.
        origins: (x, y) [L, N, Q, 2] of each mask's origin: the reference point that entered the layer, in shares of
            the un-padded frame. Only layer 0 has a gradient.
        mask_features: mask features [N, 8, h, w] of the key frames.
        reference_logits: class logits [N, Q, K] of the reference frames, last layer, without gradient.
        reference_boxes: cxcywh [N, Q, 4] of the reference frames, last layer, without gradient.
        reference_states: query states [N, Q, C] of the reference frames, last layer.
    """

    logits: Tensor
    boxes: Tensor
    states: Tensor
    origins: Tensor
    mask_features: Tensor
    reference_logits: Tensor
    reference_boxes: Tensor
    reference_states: Tensor


def normalise(
    model: Idol,
    images: Tensor,  # [M, 3, H, W] uint8
    padding_mask: Tensor,  # [M, H, W] bool
) -> Tensor:
    """Normalise frames to the network's input, float [M, 3, H, W], zero where padded."""
    preprocessing = model.config.preprocessing
    mean, std = (
        torch.tensor(values, device=images.device)[:, None, None]
        for values in (preprocessing.mean, preprocessing.std)
    )
    return ((images.float() - mean) / std).masked_fill(padding_mask[:, None], 0.0)


def forward_pairs(
    model: Idol,
    images: Tensor,  # [2 N, 3, H, W] float
    padding_mask: Tensor,  # [2 N, H, W] bool
    *,
    both_directions: bool = False,
) -> PairOutput:
    """Run the network on N pairs of frames, in the order key, reference, key, reference, ...

    All frames pass the backbone together, and the transformer in two calls, as published. With `both_directions`,
    every frame is the key frame of one pair and the reference frame of another (2 N pairs), in one call.
    """
    sources = model.neck(model.backbone(images))
    if both_directions:
        key_memory, key, geometry = _transform(model, sources, padding_mask, slice(None))
        last, reference_boxes = _partners(key.states[-1]), _partners(key.boxes[-1])
    else:
        key_memory, key, geometry = _transform(model, sources, padding_mask, slice(0, None, 2))
        _, reference, _ = _transform(model, sources, padding_mask, slice(1, None, 2))
        last, reference_boxes = reference.states[-1], reference.boxes[-1]
    with torch.no_grad():
        reference_logits = model.heads.classify(last)
    return PairOutput(
        logits=torch.stack([model.heads.classify(states, layer) for layer, states in enumerate(key.states)]),
        boxes=key.boxes,
        states=key.states,
        origins=torch.stack([entered[..., :2] for entered in key.references]),
        mask_features=model.mask_head.features(key_memory, geometry),
        reference_logits=reference_logits,
        reference_boxes=reference_boxes.detach(),
        reference_states=last,
    )


def _transform(
    model: Idol, sources: tuple[Tensor, ...], padding_mask: Tensor, which: slice
) -> tuple[Tensor, DecoderOutput, Geometry]:
    """Encode and decode the selected images."""
    geometry = build_geometry(padding_mask[which], model.config.model.hidden_dim)
    memory = model.transformer.encode(tuple(source[which] for source in sources), geometry)
    return memory, model.transformer.decode(memory, geometry), geometry


def _partners(values: Tensor) -> Tensor:
    """Exchange the two frames of each pair in [2 N, ...]."""
    return values.reshape(-1, 2, *values.shape[1:]).flip(1).flatten(0, 1)
