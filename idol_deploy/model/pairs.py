"""The network on pairs of frames: an adapter around it that keeps what the losses of all decoder layers need.

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
    """What the network says of key frames, layer by layer, and of reference frames in the end.

    Attributes:
        logits: [L, N, Q, K] on the key frames.
        boxes: cxcywh [L, N, Q, 4] on the key frames, in shares of the un-padded frame.
        states: [L, N, Q, C] of the queries on the key frames.
        origins: (x, y) [L, N, Q, 2], the reference point that entered each layer, in the same shares; each mask's
            origin. Has a gradient at layer 0 only.
        mask_features: [N, 8, h, w] of the key frames.
        reference_logits: [N, Q, K] of the last layer on the reference frames, without gradient.
        reference_boxes: [N, Q, 4], likewise.
        reference_states: [N, Q, C] of the last layer on the reference frames.
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
    """Float frames [M, 3, H, W] as the network takes them, zero where padded."""
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
    """Runs key and reference frames, in the order key, reference, key, ...

    All go through the backbone together, and through the transformer in two calls, as published; in one where every
    frame is the key frame of a pair, of which there are 2 N then, and its partner the reference frame.
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
    """Encodes and decodes some of the images."""
    geometry = build_geometry(padding_mask[which], model.config.model.hidden_dim)
    memory = model.transformer.encode(tuple(source[which] for source in sources), geometry)
    return memory, model.transformer.decode(memory, geometry), geometry


def _partners(values: Tensor) -> Tensor:
    """[2 N, ...] with the two of each pair exchanged."""
    return values.reshape(-1, 2, *values.shape[1:]).flip(1).flatten(0, 1)
