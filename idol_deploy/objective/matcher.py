"""Assignment of queries to instances: simOTA, one instance to many queries (Ge et al. 2021; docs/idol.md §5.2).

All images of a batch, decoder layers and instances are assigned at once. Instances are padded to the largest number of
any image; `exists` marks the real ones. Letters: N images (times layers), G instances, Q queries, K classes. Boxes are
cxcywh in shares of the un-padded image. No function here has a gradient.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from idol_deploy.objective.boxes import pairwise_iou, to_xyxy

__all__ = ["Assignment", "dynamic_k", "match", "pairwise_cost"]

_ALPHA = 0.25
_GIOU_WEIGHT = 3.0
_OFF_CENTRE = 100.0  # added unless the query's centre is in the instance's box and near its centre
_NOWHERE = 10_000.0  # added if the query's centre is in or near no instance
_ASSIGNED = 100_000.0  # added to assigned queries while an instance has no query
_RADIUS = 2.5 / 32  # largest distance that is near, per axis, in shares of the image
_IMPOSSIBLE = 1e9  # replaces a cost that is NaN
_CANDIDATES = 10


@dataclass(frozen=True)
class Assignment:
    """Assignment of queries and instances.

    Attributes:
        matched: queries with an instance, bool [N, Q].
        instance: instance of each query, int64 [N, Q]; 0 for an unmatched query.
        best_query: query of lowest cost of each instance, int64 [N, G]; 0 for an instance without a query.
        assigned: instances with a query, bool [N, G]. False only for padding, and if there are too few queries.
    """

    matched: Tensor
    instance: Tensor
    best_query: Tensor
    assigned: Tensor


@torch.no_grad()
def match(
    logits: Tensor,  # [N, Q, K]
    boxes: Tensor,  # [N, Q, 4]
    labels: Tensor,  # [N, G] int64
    instance_boxes: Tensor,  # [N, G, 4]
    exists: Tensor,  # [N, G] bool
) -> Assignment:
    """Assign queries to instances; G and Q must be at least 1."""
    cost, iou = pairwise_cost(logits, boxes, labels, instance_boxes, exists)
    pairs, cost = dynamic_k(cost, iou, exists, _CANDIDATES)
    return Assignment(
        matched=pairs.any(1),
        instance=pairs.int().argmax(1),
        best_query=cost.masked_fill(~pairs, torch.inf).argmin(-1),
        assigned=pairs.any(-1),
    )


@torch.no_grad()
def pairwise_cost(
    logits: Tensor,  # [N, Q, K]
    boxes: Tensor,  # [N, Q, 4]
    labels: Tensor,  # [N, G] int64
    instance_boxes: Tensor,  # [N, G, 4]
    exists: Tensor,  # [N, G] bool
) -> tuple[Tensor, Tensor]:
    """Compute the cost of assigning each query to each instance.

    Returns:
        The cost [N, G, Q], infinite for padding, and IoU [N, G, Q]. Both are float32.
    """
    boxes, instance_boxes = boxes.float(), instance_boxes.float()
    Q = boxes.shape[1]
    score = logits.float().transpose(1, 2).gather(1, labels[..., None].expand(-1, -1, Q)).sigmoid()
    positive = _ALPHA * (1 - score) ** 2 * -(score + 1e-8).log()
    negative = (1 - _ALPHA) * score**2 * -(1 - score + 1e-8).log()
    iou, giou = pairwise_iou(to_xyxy(instance_boxes), to_xyxy(boxes))
    centre, middle = boxes[:, None, :, :2], instance_boxes[:, :, None, :2]
    corners = to_xyxy(instance_boxes)[:, :, None]
    # The query's centre is in the instance's box; it is near the centre of that box.
    inside = ((centre > corners[..., :2]) & (centre < corners[..., 2:])).all(-1)
    near = ((centre > middle - _RADIUS) & (centre < middle + _RADIUS)).all(-1)
    somewhere = ((inside | near) & exists[..., None]).any(1, keepdim=True)
    cost = positive - negative - _GIOU_WEIGHT * giou + _OFF_CENTRE * ~(inside & near) + _NOWHERE * ~somewhere
    # A diverged network must fail in its loss, whose error names it, and not loop forever here.
    cost = cost.nan_to_num(_IMPOSSIBLE).masked_fill(~exists[..., None], torch.inf)
    return cost, iou.nan_to_num(0.0)


@torch.no_grad()
def dynamic_k(
    cost: Tensor,  # [N, G, Q]
    iou: Tensor,  # [N, G, Q]
    exists: Tensor,  # [N, G] bool
    candidates: int,
) -> tuple[Tensor, Tensor]:
    """Assign to each instance its k cheapest queries, where k is the sum of its `candidates` largest IoUs.

    A query of several instances goes to the instance of lowest cost. An instance without a query then takes the
    cheapest unassigned query. As published, only the queries that several instances shared at first are then resolved
    once more, and the costs stay raised. Of equal costs, the lower query comes first.

    Returns:
        The assignment, bool [N, G, Q], and the raised costs [N, G, Q], which the second published call starts from.
    """
    Q = cost.shape[-1]
    count = iou.topk(min(candidates, Q), -1).values.sum(-1).int().clamp(min=1)
    rank = cost.argsort(dim=-1, stable=True).argsort(-1)
    pairs = (rank < count[..., None]) & exists[..., None]
    contested = pairs.sum(1) > 1
    pairs = _resolve(pairs, cost, contested)
    missing = exists & ~pairs.any(-1)
    while bool(missing.any()):
        incomplete = missing.any(-1, keepdim=True)
        cost = cost + _ASSIGNED * (pairs.any(1) & incomplete)[:, None]
        pairs = pairs | (F.one_hot(cost.argmin(-1), Q).bool() & missing[..., None])
        shared = (pairs.sum(1) > 1).any(-1, keepdim=True) & incomplete
        pairs = _resolve(pairs, cost, contested & shared)
        # If every query is assigned, an instance without one stays without.
        free = ~pairs.any(1).all(-1, keepdim=True)
        missing = exists & ~pairs.any(-1) & free
    return pairs, cost


def _resolve(pairs: Tensor, cost: Tensor, queries: Tensor) -> Tensor:
    """Leave these queries [N, Q] to the instance of lowest cost."""
    cheapest = F.one_hot(cost.argmin(1), cost.shape[1]).transpose(1, 2).bool()
    return torch.where(queries[:, None], cheapest, pairs)
