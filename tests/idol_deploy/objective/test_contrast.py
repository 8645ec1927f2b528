import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from idol_deploy.objective import contrast
from idol_deploy.objective.contrast import (
    Selection,
    compare,
    contrastive_loss,
    cosine_loss,
    sample_uniformly,
    select_by_iou,
    select_by_transport,
)
from published.training import PublishedSampler

Losses = tuple[float, float]


def _take_all(negative: Tensor, _: Tensor) -> Tensor:
    return negative


def _plain(key: Tensor, reference: Tensor, selection: Selection, found: Tensor, sampled: Tensor) -> Losses:
    """Compute both losses, item by item, in float64."""
    reid = aux = 0.0
    for n, g in np.ndindex(*found.shape):
        positive, negative = (
            [reference[n, q].double() for q in range(reference.shape[1]) if mask[n, g, q]]
            for mask in (selection.positive, selection.negative)
        )
        if not found[n, g] or not positive:
            continue
        k = key[n, g].double()
        reid += np.log1p(sum(float(torch.exp(k @ m - k @ p)) for p in positive for m in negative))
        drawn = [reference[n, q].double() for q in range(reference.shape[1]) if sampled[n, g, q]]
        errors = [
            (float(k @ other / (k.norm() * other.norm())) - label) ** 2
            for label, others in ((1, positive), (0, drawn))
            for other in others
        ]
        aux += sum(errors) / len(errors)
    return reid, aux


@given(st.integers(0, 2**32 - 1), st.integers(1, 9), st.integers(1, 4))
def test_a_batch_is_compared_as_item_by_item(seed: int, queries: int, instances: int) -> None:
    g = torch.Generator().manual_seed(seed)
    key, reference = (torch.randn(2, n, 6, generator=g) for n in (instances, queries))
    # As in the published selection, a query can be positive, negative, neither or both.
    positive, negative = torch.rand(2, 2, instances, queries, generator=g) < 0.4
    found = torch.rand(2, instances, generator=g) < 0.7
    similarity = compare(key, reference, Selection(positive, negative), found, _take_all)
    reid, aux = _plain(key, reference, Selection(positive, negative), found, similarity.sampled)
    assert float(contrastive_loss(similarity)) == pytest.approx(reid, rel=1e-4, abs=1e-5)
    assert float(cosine_loss(similarity)) == pytest.approx(aux, rel=1e-4, abs=1e-6)
    assert torch.equal(similarity.items, found & positive.any(-1))


@pytest.mark.parametrize("sampler", [sample_uniformly, PublishedSampler()])
def test_negatives_are_drawn_ten_to_a_positive_without_replacement(
    sampler: Callable[[Tensor, Tensor], Tensor],
) -> None:
    # Transposed, like real selections.
    negative = (torch.rand(60, 3, 2, generator=torch.Generator().manual_seed(0)) < 0.6).transpose(0, 2)
    count = torch.tensor([[0, 1, 10], [10, 20, 0]]).minimum(negative.sum(-1))
    drawn = sampler(negative, count)
    assert torch.equal(drawn.sum(-1), count)
    assert not (drawn & ~negative).any()


def test_every_negative_is_drawn_as_often_as_any_other() -> None:
    torch.manual_seed(0)
    negative = torch.tensor([True, False, True, True, True]).expand(4000, 1, 5)
    share = sample_uniformly(negative, torch.full((4000, 1), 2)).float().mean(0)[0]
    # Standard deviation 0.008.
    torch.testing.assert_close(share, torch.tensor([0.5, 0.0, 0.5, 0.5, 0.5]), atol=0.04, rtol=0)


def test_the_published_draws_are_reproduced() -> None:
    negative = torch.tensor([[[True] * 9 + [False], [False, *([True] * 9)]]])
    drawn = PublishedSampler(0)(negative, torch.tensor([[3, 4]]))
    random.seed(0)
    first = random.sample(list(range(9)), 3)
    second = [1 + q for q in random.sample(list(range(9)), 4)]
    assert [row.nonzero().flatten().tolist() for row in drawn[0]] == [sorted(first), sorted(second)]


def test_published_pairs_as_one_batch(reference: Path) -> None:
    unit = np.load(reference / "unit_pos_neg.npz")

    def batch(name: str) -> Tensor:
        parts = [torch.from_numpy(unit[f"{name}{i}"]) for i in range(3)]
        return torch.nn.utils.rnn.pad_sequence(parts, batch_first=True)

    valid = batch("valid")
    arrays = (batch(name) for name in ("ref_logits", "ref_boxes", "labels", "gt_boxes"))
    selection = select_by_transport(*arrays, valid)
    assert torch.equal(selection.positive, batch("positive"))
    assert torch.equal(selection.negative, ~batch("not_negative") & valid[..., None])


def test_the_wider_choice_starts_from_raised_costs(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[Tensor, int]] = []

    def raising(cost: Tensor, iou: Tensor, exists: Tensor, candidates: int) -> tuple[Tensor, Tensor]:
        calls.append((cost, candidates))
        return torch.ones_like(iou, dtype=torch.bool), cost + 1

    monkeypatch.setattr(contrast, "dynamic_k", raising)
    exists = torch.ones(1, 2, dtype=torch.bool)
    select_by_transport(
        torch.zeros(1, 3, 4), torch.rand(1, 3, 4), torch.zeros(1, 2).long(), torch.rand(1, 2, 4), exists
    )
    (first, ten), (second, hundred) = calls
    assert (ten, hundred) == (10, 100)
    assert torch.equal(second, first + 1)


def test_fewer_queries_than_candidates() -> None:
    boxes = torch.tensor([[[0.5, 0.5, 0.2, 0.2], [0.1, 0.1, 0.1, 0.1]]])
    exists = torch.ones(1, 1, dtype=torch.bool)
    selection = select_by_transport(
        torch.zeros(1, 2, 3), boxes, torch.zeros(1, 1).long(), boxes[:, :1], exists
    )
    assert selection.positive.tolist() == [[[True, False]]]
    assert selection.negative.tolist() == [[[False, True]]]


def test_thresholds_leave_what_lies_between() -> None:
    instance = torch.tensor([[[0.5, 0.5, 0.4, 0.4], [0.5, 0.5, 0.4, 0.4]]])
    # Widths give IoUs of 1, 0.75, 0.5 and 0.25.
    boxes = torch.tensor([[[0.5, 0.5, 0.4 * share, 0.4] for share in (1.0, 0.75, 0.5, 0.25)]])
    selection = select_by_iou(boxes, instance, torch.tensor([[True, False]]))
    assert selection.positive.int().tolist() == [[[1, 1, 0, 0], [0, 0, 0, 0]]]
    assert selection.negative.int().tolist() == [[[0, 0, 0, 1], [0, 0, 0, 0]]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("size", [0.0, 1e-6, 100.0])
def test_losses_and_gradients_are_finite(dtype: torch.dtype, size: float) -> None:
    rng: npt.NDArray[np.float64] = np.random.default_rng(0).normal(size=(2, 5, 256)) * size
    key, reference = (torch.from_numpy(rng).to(dtype)[:, :n].clone().requires_grad_() for n in (3, 5))
    roles = torch.tensor([[0, 0, 1, 1, 1], [0, 0, 0, 0, 0], [1, 1, 1, 1, 1]]).expand(2, 3, 5)
    similarity = compare(key, reference, Selection(roles == 0, roles == 1), torch.ones(2, 3).bool())
    loss = contrastive_loss(similarity) + cosine_loss(similarity)
    loss.backward()
    assert loss.isfinite()
    for tensor in (key, reference):
        assert tensor.grad is not None
        assert tensor.grad.isfinite().all()
