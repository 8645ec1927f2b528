"""Mask losses of the matched queries of all decoder layers, in bounded memory.

The small networks of all matched queries run as batched matrix products. Many masks do not fit into memory: they are
decoded in chunks and, if there is more than one chunk, a second time for the gradient. Letters: L layers, N images,
Q queries, G instances, h x w cells of stride 8, n matched queries of all layers of one image (padded).
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from idol_deploy.model.mask_head import MaskHead
from idol_deploy.objective.losses import dice_loss, mask_focal_loss

__all__ = ["Matched", "gather_matched", "mask_losses"]


@dataclass(frozen=True)
class Matched:
    """The matched queries of each image, concatenated over the layers.

    Attributes:
        index: layer * Q + query, int64 [N, n].
        layer: layer of the query, int64 [N, n].
        counted: real queries, bool [N, n]; False for padding.
    """

    index: Tensor
    layer: Tensor
    counted: Tensor

    def take(self, values: Tensor) -> Tensor:
        """Gather the values of the matched queries: [L, N, Q, ...] to [N, n, ...]."""
        flat = values.transpose(0, 1).flatten(1, 2)
        index = self.index.reshape(*self.index.shape, *(1,) * (flat.ndim - 2))
        return flat.gather(1, index.expand(-1, -1, *flat.shape[2:]))


def gather_matched(matched: Tensor) -> Matched:
    """Collect the matched queries of [L, N, Q]; n is at least 1, so that the loss always has a gradient."""
    queries = matched.shape[-1]
    flat = matched.transpose(0, 1).flatten(1)
    count = flat.sum(1)
    n = max(int(count.max()), 1)
    index = flat.int().argsort(dim=1, descending=True, stable=True)[:, :n]
    counted = torch.arange(n, device=flat.device) < count[:, None]
    return Matched(index, index // queries, counted)


def mask_losses(
    head: MaskHead,
    features: Tensor,  # [N, 8, h, w]
    params: Tensor,  # [N, n, 169]
    reference_px: Tensor,  # [N, n, 2]
    instance: Tensor,  # [N, n] int64
    masks: Tensor,  # [N, G, 2 h, 2 w] bool
    at_once: int,
) -> tuple[Tensor, Tensor]:
    """Compute focal and dice loss, each [N, n], between the masks of matched queries and of their instances.

    Args:
        head: mask head that decodes the masks.
        features: mask features of the images.
        params: parameters of each query's mask network.
        reference_px: (x, y) of each mask's origin, in pixels of the key frame.
        instance: index of each query's instance.
        masks: masks of the instances.
        at_once: number of masks of the batch in memory at once.
    """

    def chunk_losses(
        features: Tensor, params: Tensor, reference_px: Tensor, instance: Tensor
    ) -> tuple[Tensor, Tensor]:
        # Positions reach a thousand pixels; half precision would round them.
        with torch.autocast(features.device.type, enabled=False):
            logits = head.decode(features, params, reference_px)
        targets = masks.gather(1, instance[..., None, None].expand(-1, -1, *masks.shape[2:]))
        return mask_focal_loss(logits, targets), dice_loss(logits, targets)

    features, params, reference_px = features.float(), params.float(), reference_px.float()
    width = max(1, at_once // features.shape[0])
    split = (torch.split(values, width, 1) for values in (params, reference_px, instance))
    chunks = list(zip(*split, strict=True))
    if len(chunks) == 1:
        return chunk_losses(features, params, reference_px, instance)
    losses = [
        checkpoint(chunk_losses, features, *chunk, use_reentrant=False, preserve_rng_state=False)
        for chunk in chunks
    ]
    return torch.cat([focal for focal, _ in losses], 1), torch.cat([dice for _, dice in losses], 1)
