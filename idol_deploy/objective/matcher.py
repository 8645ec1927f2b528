"""Which queries answer for which instance: simOTA, one instance to many queries (Ge et al. 2021; docs/idol.md §5.2).

All images of a batch, all decoder layers and all instances are assigned at once: instances are padded to the largest
number of any image, and `exists` says which are real. Letters: N images (times layers), G instances, Q queries,
K classes. Boxes are cxcywh, in shares of the un-padded image. Nothing here has a gradient.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from idol_deploy.objective.boxes import pairwise_iou, to_xyxy

__all__ = ["Assignment", "dynamic_k", "match", "pairwise_cost"]

_ALPHA = 0.25
_GIOU_WEIGHT = 3.0
_OFF_CENTRE = 100.0  # added where a query's centre is not in the box and near its centre
_NOWHERE = 10_000.0  # added where it is in and near no instance at all
_TAKEN = 100_000.0  # added to queries that have an instance while another instance has none
_RADIUS = 2.5 / 32  # how near counts as near, per axis, in shares of the image
_IMPOSSIBLE = 1e9  # in place of a cost that is no number
_CANDIDATES = 10


@dataclass(frozen=True)
class Assignment:
    """Who answers for whom.

    Attributes:
        matched: bool [N, Q], the query has an instance.
        instance: int64 [N, Q], which one; 0 where it has none.
        best_query: int64 [N, G], the cheapest query of each instance; 0 where it has none.
        found: bool [N, G], the instance has a query. False only for padding, and where there are too few queries.
    """

    matched: Tensor
    instance: Tensor
    best_query: Tensor
    found: Tensor


@torch.no_grad()
def match(
    logits: Tensor,  # [N, Q, K]
    boxes: Tensor,  # [N, Q, 4]
    labels: Tensor,  # [N, G] int64
    instance_boxes: Tensor,  # [N, G, 4]
    exists: Tensor,  # [N, G] bool
) -> Assignment:
    """Assigns queries to instances; G and Q must be at least 1."""
    cost, iou = pairwise_cost(logits, boxes, labels, instance_boxes, exists)
    pairs, cost = dynamic_k(cost, iou, exists, _CANDIDATES)
    return Assignment(
        matched=pairs.any(1),
        instance=pairs.int().argmax(1),
        best_query=cost.masked_fill(~pairs, torch.inf).argmin(-1),
        found=pairs.any(-1),
    )


@torch.no_grad()
def pairwise_cost(
    logits: Tensor,  # [N, Q, K]
    boxes: Tensor,  # [N, Q, 4]
    labels: Tensor,  # [N, G] int64
    instance_boxes: Tensor,  # [N, G, 4]
    exists: Tensor,  # [N, G] bool
) -> tuple[Tensor, Tensor]:
    """What it costs to give each instance each query.

    Returns:
        cost [N, G, Q], infinite for instances that do not exist; IoU [N, G, Q]. Both float32.
    """
    boxes, instance_boxes = boxes.float(), instance_boxes.float()
    Q = boxes.shape[1]
    score = logits.float().transpose(1, 2).gather(1, labels[..., None].expand(-1, -1, Q)).sigmoid()
    positive = _ALPHA * (1 - score) ** 2 * -(score + 1e-8).log()
    negative = (1 - _ALPHA) * score**2 * -(1 - score + 1e-8).log()
    iou, giou = pairwise_iou(to_xyxy(instance_boxes), to_xyxy(boxes))
    inside, near = _centred(boxes, instance_boxes)
    somewhere = ((inside | near) & exists[..., None]).any(1, keepdim=True)
    cost = positive - negative - _GIOU_WEIGHT * giou + _OFF_CENTRE * ~(inside & near) + _NOWHERE * ~somewhere
    # A network that has diverged must fail in its loss, which names itself, and not loop here.
    cost = cost.nan_to_num(_IMPOSSIBLE).masked_fill(~exists[..., None], torch.inf)
    return cost, iou.nan_to_num(0.0)


def _centred(boxes: Tensor, instance_boxes: Tensor) -> tuple[Tensor, Tensor]:
    """Bool [N, G, Q] twice: the query's centre lies in the instance's box; near its centre, on both axes."""
    centre = boxes[:, None, :, :2]
    corners = to_xyxy(instance_boxes)[:, :, None]
    middle = instance_boxes[:, :, None, :2]
    inside = (centre > corners[..., :2]) & (centre < corners[..., 2:])
    near = (centre > middle - _RADIUS) & (centre < middle + _RADIUS)
    return inside.all(-1), near.all(-1)


@torch.no_grad()
def dynamic_k(
    cost: Tensor,  # [N, G, Q]
    iou: Tensor,  # [N, G, Q]
    exists: Tensor,  # [N, G] bool
    candidates: int,
) -> tuple[Tensor, Tensor]:
    """Gives each instance as many of its cheapest queries as its `candidates` largest IoUs sum to.

    A query that several instances want goes to the one for which it costs least. An instance that is left with none
    takes the cheapest query that nobody has; the published code then settles once more those queries, and only those,
    that several wanted at first, and leaves the costs that it raised on the way. Equal costs: the lower query first.

    Returns:
        pairs: bool [N, G, Q].
        cost: [N, G, Q] as raised on the way; a second call of the published code starts from it.
    """
    Q = cost.shape[-1]
    count = iou.topk(min(candidates, Q), -1).values.sum(-1).int().clamp(min=1)
    rank = cost.argsort(dim=-1, stable=True).argsort(-1)
    pairs = (rank < count[..., None]) & exists[..., None]
    crowded = pairs.sum(1) > 1
    pairs = _settle(pairs, cost, crowded)
    missing = exists & ~pairs.any(-1)
    while bool(missing.any()):
        concerned = missing.any(-1, keepdim=True)
        cost = cost + _TAKEN * (pairs.any(1) & concerned)[:, None]
        pairs = pairs | (F.one_hot(cost.argmin(-1), Q).bool() & missing[..., None])
        shared = (pairs.sum(1) > 1).any(-1, keepdim=True) & concerned
        pairs = _settle(pairs, cost, crowded & shared)
        # Where every query is taken, waiting for a free one has no end.
        free = ~pairs.any(1).all(-1, keepdim=True)
        missing = exists & ~pairs.any(-1) & free
    return pairs, cost


def _settle(pairs: Tensor, cost: Tensor, queries: Tensor) -> Tensor:
    """Leaves these queries [N, Q] to the instance for which they cost least."""
    cheapest = F.one_hot(cost.argmin(1), cost.shape[1]).transpose(1, 2).bool()
    return torch.where(queries[:, None], cheapest, pairs)
