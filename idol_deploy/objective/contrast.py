"""The contrastive embedding loss: which queries of the reference frame an instance is compared with, and how.

The instance's best query on the key frame is pulled to the positives of the reference frame and pushed from the
negatives; those in between are left alone. All images and instances are treated at once. Letters: N pairs, G
instances (padded; see `objective.matcher`), Q queries, C channels of the embedding. Source: docs/idol.md §5.3, §5.4.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor
from torch.nn import functional as F

from idol_deploy.objective.boxes import pairwise_iou, to_xyxy
from idol_deploy.objective.matcher import dynamic_k, pairwise_cost

__all__ = [
    "PublishedSampler",
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

# Draws as many negatives of each instance, bool [N, G, Q], as int64 [N, G] says; bool [N, G, Q].
Sampler: TypeAlias = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Selection:
    """Queries of the reference frame, as seen from each instance.

    Attributes:
        positive: bool [N, G, Q], they show it.
        negative: bool [N, G, Q], they do not; both False for instances that are not on the frame.
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
    """By optimal transport: positives are simOTA's queries, negatives those that a wider simOTA leaves out.

    The first takes as many as the 10 largest IoUs sum to, the second as many as the 100 largest, fewer where there
    are fewer queries; the second starts from the costs that the first has raised, as published.
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
    """The baseline: positives overlap the instance by more than `above`, negatives by less than `below`."""
    iou, _ = pairwise_iou(to_xyxy(instance_boxes.float()), to_xyxy(boxes.float()))
    return Selection((iou > above) & exists[..., None], (iou < below) & exists[..., None])


def sample_uniformly(negative: Tensor, count: Tensor) -> Tensor:
    """A `Sampler`: without replacement, by torch's generator of the tensor's device."""
    draws = torch.rand(negative.shape, device=negative.device).masked_fill(~negative, 2.0)
    return (draws.argsort(-1).argsort(-1) < count[..., None]) & negative


class PublishedSampler:
    """A `Sampler` that draws as the published code does after `random.seed`, instance by instance.

    Slow; for comparisons.
    """

    def __init__(self, seed: int = 0) -> None:
        self._generator = random.Random(seed)  # noqa: S311

    def __call__(self, negative: Tensor, count: Tensor) -> Tensor:
        """The drawn negatives [N, G, Q]; draws for an instance without negatives take nothing."""
        drawn = torch.zeros(negative.shape, dtype=torch.bool, device=negative.device)
        for row, available, wanted in zip(
            drawn.flatten(0, 1), negative.flatten(0, 1), count.flatten().tolist(), strict=True
        ):
            (queries,) = available.nonzero(as_tuple=True)
            chosen = self._generator.sample(range(len(queries)), wanted)
            row[queries[chosen]] = True
        return drawn


@dataclass(frozen=True)
class Similarity:
    """Each instance's key embedding against every query of the reference frame.

    Attributes:
        product: dot products [N, G, Q], float32.
        cosine: [N, G, Q], float32.
        positive: bool [N, G, Q], of those instances that are compared.
        negative: likewise.
        sampled: bool [N, G, Q], the negatives that the cosine loss looks at: ten to a positive.
        items: bool [N, G], the instances that are compared.
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
    found: Tensor,  # [N, G] bool
    sampler: Sampler = sample_uniformly,
) -> Similarity:
    """Compares embeddings, in float32 whatever the autocast: the products are not normalised, and large.

    Args:
        key: embedding of each instance's best query on the key frame.
        reference: embeddings on the reference frame.
        selection: whom to compare with. An instance without positives is left out.
        found: the instance has a query on the key frame.
        sampler: of the negatives of the cosine loss.
    """
    items = found & selection.positive.any(-1)
    positive, negative = (mask & items[..., None] for mask in (selection.positive, selection.negative))
    wanted = torch.minimum(_NEGATIVES_PER_POSITIVE * positive.sum(-1), negative.sum(-1))
    with torch.autocast(key.device.type, enabled=False):
        key, reference = key.float(), reference.float()
        product = key @ reference.transpose(1, 2)
        cosine = F.normalize(key, dim=-1) @ F.normalize(reference, dim=-1).transpose(1, 2)
    return Similarity(product, cosine, positive, negative, sampler(negative, wanted), items)


def contrastive_loss(similarity: Similarity) -> Tensor:
    """Sum over instances of log(1 + Σ⁺ Σ⁻ exp(k·n - k·p)), a scalar; 0 for one without negatives."""
    pushed = _log_sum_exp(similarity.product, similarity.negative)
    pulled = _log_sum_exp(-similarity.product, similarity.positive)
    counted = similarity.negative.any(-1) & similarity.positive.any(-1)
    return F.softplus(pushed + pulled).where(counted, 0.0).sum()


def cosine_loss(similarity: Similarity) -> Tensor:
    """Sum over instances of the mean of (cosine - label)² over positives, 1, and sampled negatives, 0; a scalar."""
    used = similarity.positive | similarity.sampled
    error = (similarity.cosine - similarity.positive.float()).square().where(used, 0.0)
    return (error.sum(-1) / used.sum(-1).clamp(min=1)).sum()


def _log_sum_exp(x: Tensor, mask: Tensor) -> Tensor:
    """Over the marked of the last axis; finite, and with a finite gradient, where none is."""
    mask = mask | ~mask.any(-1, keepdim=True)
    return x.masked_fill(~mask, -torch.inf).logsumexp(-1)
