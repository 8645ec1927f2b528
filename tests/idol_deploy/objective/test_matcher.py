from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from idol_deploy.objective.matcher import dynamic_k, match, pairwise_cost

Floats = npt.NDArray[np.float32]
Bools = npt.NDArray[np.bool_]


def _plain(cost: Floats, iou: Floats, candidates: int) -> tuple[Bools, Floats]:
    """Compute `dynamic_k` of one image [G, Q], instance by instance."""
    G, Q = cost.shape
    cost, pairs = cost.copy(), np.zeros((G, Q), np.bool_)
    for g in range(G):
        k = max(1, int(sum(sorted(iou[g].tolist(), reverse=True)[:candidates])))
        for q in sorted(range(Q), key=lambda q, g=g: (cost[g, q], q))[:k]:  # type: ignore[misc]
            pairs[g, q] = True
    crowded = [q for q in range(Q) if pairs[:, q].sum() > 1]

    def settle() -> None:
        for q in crowded:
            cheapest = min(range(G), key=lambda g: (cost[g, q], g))
            pairs[:, q] = np.arange(G) == cheapest

    settle()
    missing = [g for g in range(G) if not pairs[g].any()]
    while missing:
        cost[:, pairs.any(0)] += np.float32(1e5)
        for g in missing:
            pairs[g, int(cost[g].argmin())] = True
        if (pairs.sum(0) > 1).any():
            settle()
        if pairs.any(0).all():
            break  # the published code would go on for ever
        missing = [g for g in range(G) if not pairs[g].any()]
    return pairs, cost


# Few values, so that many are equal; others become equal when float32 rounds them at 100,000 above.
_COST = st.sampled_from([0.0, 2**-10, 1.0, 1.0 + 2**-10, 2.0, 3.0])


@st.composite
def _images(draw: st.DrawFn) -> tuple[list[Floats], list[Floats]]:
    """Costs and IoUs, [G, Q] each, of several images."""
    queries, most = draw(st.integers(1, 9)), draw(st.integers(1, 6))
    costs, ious = [], []
    for _ in range(draw(st.integers(1, 3))):
        instances = draw(st.integers(0, most))
        size = instances * queries
        cost = draw(st.lists(_COST, min_size=size, max_size=size))
        iou = draw(st.lists(st.integers(0, 8), min_size=size, max_size=size))
        costs.append(np.array(cost, np.float32).reshape(instances, queries))
        ious.append((np.array(iou, np.float32) / 8).reshape(instances, queries))
    return costs, ious


def _padded(rows: list[Floats], value: float) -> Tensor:
    instances = max(1, *(len(row) for row in rows))
    padded = [np.pad(row, ((0, instances - len(row)), (0, 0)), constant_values=value) for row in rows]
    return torch.from_numpy(np.stack(padded))


@given(_images(), st.sampled_from([1, 3, 100]))
def test_a_padded_batch_is_assigned_as_image_by_image(
    images: tuple[list[Floats], list[Floats]], candidates: int
) -> None:
    costs, ious = images
    cost, iou = _padded(costs, np.inf), _padded(ious, 1.0)
    exists = torch.arange(cost.shape[1]) < torch.tensor([len(rows) for rows in costs])[:, None]
    pairs, after = dynamic_k(cost, iou, exists, candidates)
    assert not pairs[~exists].any()
    for i, rows in enumerate(costs):
        wanted, changed = _plain(rows, ious[i], candidates)
        np.testing.assert_array_equal(pairs[i, : len(rows)], wanted)
        np.testing.assert_array_equal(after[i, : len(rows)], changed)


def test_costs_that_were_raised_stay_so() -> None:
    # Query 0 is cheapest for both; the second must take query 1, and the cost of query 0 stays raised.
    cost = torch.tensor([[[0.0, 5.0, 6.0], [1.0, 2.0, 9.0]]])
    pairs, after = dynamic_k(cost, torch.zeros(1, 2, 3), torch.ones(1, 2, dtype=torch.bool), 10)
    assert pairs.int().tolist() == [[[1, 0, 0], [0, 1, 0]]]
    assert after.tolist() == [[[100000.0, 5.0, 6.0], [100001.0, 2.0, 9.0]]]


def _plain_cost(
    score: Floats, boxes: Floats, labels: list[int], instances: Floats
) -> npt.NDArray[np.float64]:
    """Compute `pairwise_cost` of one image, [G, Q], pair by pair."""
    cost = np.zeros((len(instances), len(boxes)))
    radius = 2.5 / 32
    fits = np.zeros((2, *cost.shape), np.bool_)
    for g, (x, y, w, h) in enumerate(instances.tolist()):
        for q, (a, b, c, d) in enumerate(boxes.tolist()):
            p = float(score[q, labels[g]])
            fits[0, g, q] = x - w / 2 < a < x + w / 2 and y - h / 2 < b < y + h / 2
            fits[1, g, q] = abs(a - x) < radius and abs(b - y) < radius
            across = min(x + w / 2, a + c / 2) - max(x - w / 2, a - c / 2)
            down = min(y + h / 2, b + d / 2) - max(y - h / 2, b - d / 2)
            inter = max(across, 0.0) * max(down, 0.0)
            union = w * h + c * d - inter
            hull = (max(x + w / 2, a + c / 2) - min(x - w / 2, a - c / 2)) * (
                max(y + h / 2, b + d / 2) - min(y - h / 2, b - d / 2)
            )
            giou = inter / union - (hull - union) / (hull + 1e-7)
            focal = 0.25 * (1 - p) ** 2 * -np.log(p + 1e-8) - 0.75 * p**2 * -np.log(1 - p + 1e-8)
            cost[g, q] = focal - 3 * giou
    return cost + 100 * ~(fits[0] & fits[1]) + 10000 * ~(fits[0] | fits[1]).any(0)


def test_costs_are_those_of_the_definition() -> None:
    rng = np.random.default_rng(3)
    # Scores below 1, so that float32 does not round 1 - p to 0.
    logits = rng.normal(0, 1.5, (2, 40, 5)).astype(np.float32)
    boxes, instances = (rng.uniform(0.1, 0.6, (2, n, 4)).astype(np.float32) for n in (40, 6))
    labels, count = rng.integers(0, 5, (2, 6)), (6, 2)
    exists = torch.arange(6) < torch.tensor(count)[:, None]
    tensors = [torch.from_numpy(array) for array in (logits, boxes, labels, instances)]
    cost, _ = pairwise_cost(*tensors, exists)
    assert bool((cost[~exists] == torch.inf).all())
    for i, n in enumerate(count):
        score = 1 / (1 + np.exp(-logits[i].astype(np.float64)))
        wanted = _plain_cost(score, boxes[i], labels[i].tolist(), instances[i, :n])
        np.testing.assert_allclose(cost[i, :n], wanted, rtol=1e-5, atol=1e-4)


def test_published_images_as_one_batch(reference: Path) -> None:
    unit = np.load(reference / "unit_matcher.npz")
    sizes = [len(unit[f"labels{i}"]) for i in range(3)]
    exists = torch.arange(max(sizes)) < torch.tensor(sizes)[:, None]
    names = ("pred_logits", "pred_boxes", "labels", "gt_boxes")
    padded = [
        torch.nn.utils.rnn.pad_sequence(
            [torch.from_numpy(unit[f"{name}{i}"]) for i in range(3)], batch_first=True
        )
        for name in names
    ]
    found = match(*padded, exists)
    assert torch.equal(found.assigned, exists)
    for i in range(3):
        np.testing.assert_array_equal(found.matched[i], unit[f"selected_query_mask{i}"])
        np.testing.assert_array_equal(found.instance[i, found.matched[i]], unit[f"gt_of_selected{i}"])
        np.testing.assert_array_equal(found.best_query[i, : sizes[i]], unit[f"matched_query_of_gt{i}"])


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_network_that_diverged_is_still_assigned(bad: float) -> None:
    logits, boxes = torch.full((1, 4, 2), bad), torch.full((1, 4, 4), bad)
    instances = torch.full((1, 3, 4), 0.5)
    found = match(logits, boxes, torch.zeros(1, 3, dtype=torch.long), instances, torch.tensor([[True] * 3]))
    assert found.matched.any()


def test_without_instances_nothing_is_matched() -> None:
    empty = torch.zeros(2, 1, dtype=torch.bool)
    found = match(
        torch.zeros(2, 3, 4), torch.rand(2, 3, 4), torch.zeros(2, 1).long(), torch.zeros(2, 1, 4), empty
    )
    assert not found.matched.any()
    assert not found.assigned.any()
