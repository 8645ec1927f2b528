"""The contrastive embedding loss and its selection of positive and negative queries on the reference frame.

The embedding of an instance's best query on the key frame is pulled to the positives and pushed from the negatives;
other queries are ignored. All images and instances are computed at once. Letters: N pairs, G instances (padded; see
`objective.matcher`), Q queries, C channels of the embedding. Source: docs/idol.md §5.3, §5.4.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor
from torch.nn import functional as F

from idol_deploy.objective.boxes import pairwise_iou, to_xyxy
from idol_deploy.objective.matcher import dynamic_k, pairwise_cost

__all__ = [
    "Sampler",
    "Selection",
    "Similarity",
    "compare",
    "contrastive_loss",
    "cosine_loss",
    "sample_uniformly",
    "select_by_iou",
    "select_by_transport",
]

_POSITIVE_CANDIDATES = 10
_NEAR_CANDIDATES = 100
_NEGATIVES_PER_POSITIVE = 10

# From negatives, bool [N, G, Q], and the number to draw for each instance, int64 [N, G], to the drawn, bool [N, G, Q].
Sampler: TypeAlias = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Selection:
    """Positive and negative queries of the reference frame; an instance that is not on the frame has neither.

    Attributes:
        positive: queries that show the instance, bool [N, G, Q].
        negative: queries that do not show the instance, bool [N, G, Q].
    """

    positive: Tensor
    negative: Tensor


@torch.no_grad()
def select_by_transport(
    logits: Tensor,  # [N, Q, K]
    boxes: Tensor,  # [N, Q, 4] cxcywh
    labels: Tensor,  # [N, G] int64
    instance_boxes: Tensor,  # [N, G, 4] cxcywh
    exists: Tensor,  # [N, G] bool
) -> Selection:
    """Select by optimal transport: simOTA's queries are positives, queries outside a wider simOTA are negatives.

    The first simOTA has 10 candidates, the wider one 100 (or all queries if there are fewer). As published, the second
    starts from the costs that the first has raised.
    """
    cost, iou = pairwise_cost(logits, boxes, labels, instance_boxes, exists)
    positive, cost = dynamic_k(cost, iou, exists, _POSITIVE_CANDIDATES)
    near, _ = dynamic_k(cost, iou, exists, _NEAR_CANDIDATES)
    return Selection(positive, ~near & exists[..., None])


@torch.no_grad()
def select_by_iou(
    boxes: Tensor,  # [N, Q, 4] cxcywh
    instance_boxes: Tensor,  # [N, G, 4] cxcywh
    exists: Tensor,  # [N, G] bool
    above: float = 0.7,
    below: float = 0.3,
) -> Selection:
    """Select by IoU with the instance: positives above `above`, negatives below `below`; the baseline."""
    iou, _ = pairwise_iou(to_xyxy(instance_boxes.float()), to_xyxy(boxes.float()))
    return Selection((iou > above) & exists[..., None], (iou < below) & exists[..., None])


def sample_uniformly(negative: Tensor, count: Tensor) -> Tensor:
    """Draw without replacement from torch's generator of the tensor's device; a `Sampler`."""
    draws = torch.rand(negative.shape, device=negative.device).masked_fill(~negative, 2.0)
    return (draws.argsort(-1).argsort(-1) < count[..., None]) & negative


@dataclass(frozen=True)
class Similarity:
    """Similarities between each instance's key embedding and every query of the reference frame.

    Attributes:
        product: dot products, float32 [N, G, Q].
        cosine: cosine similarities, float32 [N, G, Q].
        positive: positive queries of the compared instances, bool [N, G, Q].
        negative: negative queries of the compared instances, bool [N, G, Q].
        sampled: negatives in the cosine loss, ten per positive, bool [N, G, Q].
        items: compared instances, bool [N, G].
    """

    product: Tensor
    cosine: Tensor
    positive: Tensor
    negative: Tensor
    sampled: Tensor
    items: Tensor


def compare(
    key: Tensor,  # [N, G, C]
    reference: Tensor,  # [N, Q, C]
    selection: Selection,
    assigned: Tensor,  # [N, G] bool
    sampler: Sampler = sample_uniformly,
) -> Similarity:
    """Compare embeddings, in float32 even under autocast, because the products are large.

    Args:
        key: embedding of each instance's best query on the key frame.
        reference: embeddings of all queries on the reference frame.
        selection: positives and negatives. An instance without positives is not compared.
        assigned: instances that have a query on the key frame.
        sampler: function that draws the negatives of the cosine loss.
    """
    items = assigned & selection.positive.any(-1)
    positive, negative = (mask & items[..., None] for mask in (selection.positive, selection.negative))
    number = torch.minimum(_NEGATIVES_PER_POSITIVE * positive.sum(-1), negative.sum(-1))
    with torch.autocast(key.device.type, enabled=False):
        key, reference = key.float(), reference.float()
        product = key @ reference.transpose(1, 2)
        cosine = F.normalize(key, dim=-1) @ F.normalize(reference, dim=-1).transpose(1, 2)
    return Similarity(product, cosine, positive, negative, sampler(negative, number), items)


def contrastive_loss(similarity: Similarity) -> Tensor:
    """Sum log(1 + Σ⁺ Σ⁻ exp(k·n - k·p)) over the instances, a scalar; an instance without negatives adds 0."""
    pushed = _log_sum_exp(similarity.product, similarity.negative)
    pulled = _log_sum_exp(-similarity.product, similarity.positive)
    counted = similarity.negative.any(-1) & similarity.positive.any(-1)
    return F.softplus(pushed + pulled).where(counted, 0.0).sum()


def cosine_loss(similarity: Similarity) -> Tensor:
    """Sum over instances the mean of (cosine - label)², label 1 for positives and 0 for sampled negatives; a scalar.

    As published, a query that is both counts twice, once with each label.
    """
    cosine, positive, sampled = similarity.cosine, similarity.positive, similarity.sampled
    error = (cosine - 1).square().where(positive, 0.0) + cosine.square().where(sampled, 0.0)
    count = positive.sum(-1) + sampled.sum(-1)
    return (error.sum(-1) / count.clamp(min=1)).sum()


def _log_sum_exp(x: Tensor, mask: Tensor) -> Tensor:
    """Compute logsumexp over the marked entries of the last axis; finite, also its gradient, if none is marked."""
    mask = mask | ~mask.any(-1, keepdim=True)
    return x.masked_fill(~mask, -torch.inf).logsumexp(-1)
