"""Mask losses of the matched queries, of all decoder layers at once and in bounded memory.

Each matched query decodes its mask by its own small network, as a batched matrix product. Many masks do not fit: they
are decoded a few at a time and, where there is more than one such chunk, once more for the gradient. Letters: L layers,
N images, Q queries, G instances, h x w cells of stride 8, n matched queries of all layers of one image (padded).
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
    """The matched queries of each image, those of all layers side by side.

    Attributes:
        index: int64 [N, n], layer * Q + query.
        layer: int64 [N, n].
        counted: bool [N, n], False for padding.
    """

    index: Tensor
    layer: Tensor
    counted: Tensor

    def take(self, values: Tensor) -> Tensor:
        """Of [L, N, Q, ...], those of the matched queries: [N, n, ...]."""
        flat = values.transpose(0, 1).flatten(1, 2)
        index = self.index.reshape(*self.index.shape, *(1,) * (flat.ndim - 2))
        return flat.gather(1, index.expand(-1, -1, *flat.shape[2:]))


def gather_matched(matched: Tensor) -> Matched:
    """Finds the matched among [L, N, Q]; n is at least 1, so that there is something to have a gradient."""
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
    """Focal and dice loss, each [N, n], of each matched query's mask against that of its instance.

    Args:
        head: decodes.
        features: of the images.
        params: each query's network.
        reference_px: (x, y) of each mask's origin, in pixels of the key frame.
        instance: whose mask is wanted.
        masks: of the instances.
        at_once: masks held in memory at once, over the batch.
    """

    def some(
        features: Tensor, params: Tensor, reference_px: Tensor, instance: Tensor
    ) -> tuple[Tensor, Tensor]:
        # Positions in pixels reach a thousand; half precision would blur them.
        with torch.autocast(features.device.type, enabled=False):
            logits = head.decode(features, params, reference_px)
        wanted = masks.gather(1, instance[..., None, None].expand(-1, -1, *masks.shape[2:]))
        return mask_focal_loss(logits, wanted), dice_loss(logits, wanted)

    features, params, reference_px = features.float(), params.float(), reference_px.float()
    width = max(1, at_once // features.shape[0])
    parted = (torch.split(part, width, 1) for part in (params, reference_px, instance))
    chunks = list(zip(*parted, strict=True))
    if len(chunks) == 1:
        return some(features, params, reference_px, instance)
    parts = [
        checkpoint(some, features, *chunk, use_reentrant=False, preserve_rng_state=False) for chunk in chunks
    ]
    return torch.cat([focal for focal, _ in parts], 1), torch.cat([dice for _, dice in parts], 1)
