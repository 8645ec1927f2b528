from collections.abc import Callable
from dataclasses import fields, replace

import pytest
import torch
from torch import Tensor
from torch import distributed as dist

from idol_deploy.model.idol import Idol
from idol_deploy.model.pairs import PairOutput, forward_pairs, normalise
from idol_deploy.objective.batch import Batch, Pair, Targets, collate
from idol_deploy.objective.config import LossConfig
from idol_deploy.objective.criterion import Criterion, Losses, count_everywhere, count_here
from idol_deploy.objective.id_head import UNKNOWN
from idol_runtime.errors import ConfigError

MakePair = Callable[..., Pair]
_LAYERED = ("logits", "boxes", "states", "origins")


def _forward(model: Idol, batch: Batch) -> PairOutput:
    return forward_pairs(model, normalise(model, batch.images, batch.padding_mask), batch.padding_mask)


def _criterion(config: LossConfig | None = None, identities: int = 0) -> Criterion:
    criterion = Criterion(config or LossConfig(), 32, identities)
    criterion.sampler = lambda negative, count: negative
    return criterion


def _run(model: Idol, pairs: list[Pair], config: LossConfig | None = None) -> Losses:
    batch = collate(pairs, model.config.preprocessing)
    losses: Losses = _criterion(config)(model, _forward(model, batch), batch.targets)
    return losses


def _one(output: PairOutput, targets: Targets, pair: int) -> tuple[PairOutput, Targets]:
    """Return one pair of a batch as a batch."""
    at = slice(pair, pair + 1)
    values = {field.name: getattr(output, field.name) for field in fields(PairOutput)}
    cut = {name: value[:, at] if name in _LAYERED else value[at] for name, value in values.items()}
    return PairOutput(**cut), Targets(*(getattr(targets, field.name)[at] for field in fields(Targets)))


@pytest.mark.parametrize("counts", [(3, 1), (5, 0), (0, 0)])
def test_shards_of_a_batch_with_the_global_normaliser_are_the_batch(
    tiny: Idol, make_pair: MakePair, counts: tuple[int, int]
) -> None:
    pairs = [make_pair(count, seed) for seed, count in enumerate(counts)]
    batch = collate(pairs, tiny.config.preprocessing)
    output = _forward(tiny, batch)
    criterion = _criterion()
    totals: list[Tensor] = []

    def remember(found: Tensor) -> Tensor:
        totals.append(found)
        return count_here(found)

    criterion.normaliser = remember
    whole = criterion(tiny, output, batch.targets)
    # Two processes, each with the counts of both.
    criterion.normaliser = lambda _: totals[0].clamp(min=1) / 2
    shards = [criterion(tiny, *_one(output, batch.targets, i)) for i in range(2)]
    torch.testing.assert_close((shards[0].total + shards[1].total) / 2, whole.total)
    for name, part in whole.parts.items():
        torch.testing.assert_close((shards[0].parts[name] + shards[1].parts[name]) / 2, part)
    assert torch.equal(shards[0].matched + shards[1].matched, whole.matched)


def test_the_global_count_is_the_mean_of_the_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    counts = torch.tensor([3.0, 0.0])
    assert count_everywhere(counts).tolist() == [3, 1]
    assert Criterion(LossConfig(global_normaliser=True), 32).normaliser is count_everywhere
    # Another process with counts 5 and 0.
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "get_world_size", lambda: 2)
    monkeypatch.setattr(dist, "all_reduce", lambda total: total.add_(torch.tensor([5.0, 0.0])))
    assert count_everywhere(counts).tolist() == [4, 0.5]
    assert counts.tolist() == [3, 0]


def test_the_total_is_the_weighted_sum(tiny: Idol, make_pair: MakePair) -> None:
    losses = _run(tiny, [make_pair(3)])
    weights = {"ce": 2, "bbox": 5, "giou": 2, "mask": 2, "dice": 5}
    names = {f"loss_{kind}{suffix}" for kind in weights for suffix in ("", "_0", "_1")}
    assert set(losses.parts) == names | {"loss_reid", "loss_reid_aux"}
    total = sum(weights[name.split("_")[1]] * losses.parts[name] for name in names)
    total = total + 2 * losses.parts["loss_reid"] + 3 * losses.parts["loss_reid_aux"]
    torch.testing.assert_close(losses.total, total)
    assert losses.matched.shape == (3,)
    assert int(losses.items) == 3


def test_without_deep_supervision_the_last_layer_is_the_same(tiny: Idol, make_pair: MakePair) -> None:
    every, last = (
        _run(tiny, [make_pair(3)], LossConfig(deep_supervision=deep)).parts for deep in (True, False)
    )
    assert set(last) == {name for name in every if not name[-1].isdigit()}
    for name, value in last.items():
        torch.testing.assert_close(value, every[name])


@pytest.mark.parametrize("selection", ["transport", "iou"])
@pytest.mark.parametrize("instances", [0, 1, 9])  # the network has seven queries
def test_any_number_of_instances_has_finite_gradients(
    tiny: Idol, make_pair: MakePair, instances: int, selection: str
) -> None:
    config = replace(LossConfig(), selection=selection, masks_at_once=2)
    losses = _run(tiny, [make_pair(instances)], config)
    losses.total.backward()
    if not instances:
        assert losses.total.item() == pytest.approx(
            2 * sum(losses.parts[f"loss_ce{suffix}"].item() for suffix in ("", "_0", "_1"))
        )
        assert int(losses.items) == 0
    missing = {name for name, parameter in tiny.named_parameters() if parameter.grad is None}
    # Every parameter must take part in every batch, because processes average gradients.
    assert missing == {"backbone.norm0.weight", "backbone.norm0.bias"}
    assert all(p.grad.isfinite().all() for p in tiny.parameters() if p.grad is not None)


def test_instances_that_are_not_on_the_reference_are_not_compared(tiny: Idol, make_pair: MakePair) -> None:
    pair = make_pair(3)
    losses = _run(tiny, [replace(pair, on_reference=torch.tensor([True, False, True]))])
    assert int(losses.items) == 2
    gone = _run(tiny, [replace(pair, on_reference=torch.zeros(3, dtype=torch.bool))])
    assert int(gone.items) == 0
    assert gone.parts["loss_reid"].item() == gone.parts["loss_reid_aux"].item() == 0.0
    assert torch.equal(gone.parts["loss_ce"], losses.parts["loss_ce"])


def test_the_identity_head_replaces_the_contrast(tiny: Idol, make_pair: MakePair) -> None:
    pair = make_pair(3)
    pair = replace(pair, identities=torch.tensor([4, UNKNOWN, 2]))
    batch = collate([pair], tiny.config.preprocessing)
    output = _forward(tiny, batch)
    criterion = _criterion(LossConfig(embedding="id_head"), 6)
    losses = criterion(tiny, output, batch.targets)
    assert not [name for name in losses.parts if "reid" in name]
    positive = criterion.select(output, batch.targets).positive[0]
    owners = [[g for g in range(3) if positive[g, q]] for q in range(positive.shape[1])]
    # A query of two instances counts for the first.
    assert int(losses.items) == 2 + sum(bool(showing) and showing[0] != 1 for showing in owners)
    losses.total.backward()
    assert criterion.id_head is not None
    touched = criterion.id_head.classify.weight.grad
    assert touched is not None
    assert touched.isfinite().all()
    with pytest.raises(ConfigError):
        Criterion(LossConfig(embedding="id_head"), 32)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_has_finite_losses(tiny: Idol, make_pair: MakePair, dtype: torch.dtype) -> None:
    batch = collate([make_pair(3), make_pair(1, 1)], tiny.config.preprocessing)
    with torch.autocast("cpu", dtype):
        output = _forward(tiny, batch)
        losses = _criterion()(tiny, output, batch.targets)
    assert all(part.dtype == torch.float32 for part in losses.parts.values())
    losses.total.backward()
    assert all(p.grad.isfinite().all() for p in tiny.parameters() if p.grad is not None)
    full = _criterion()(tiny, _forward(tiny, batch), batch.targets)
    assert losses.total.item() == pytest.approx(full.total.item(), rel=0.1)
