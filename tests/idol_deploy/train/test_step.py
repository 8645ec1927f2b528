import copy
import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch

from idol_deploy.data.loader import LoaderState, PairLoader
from idol_deploy.evaluate.shards import Shard
from idol_deploy.objective.batch import Batch
from idol_deploy.settings import TrainSettings, override_settings
from idol_deploy.train.data import open_training_data
from idol_deploy.train.graph import build_graph, prepare_graph
from idol_deploy.train.processes import Processes
from idol_deploy.train.step import Stepper, StepReport
from idol_runtime.errors import TrainingError

ALONE = Processes(Shard(), torch.device("cpu"))


def with_run(settings: TrainSettings, **run: Any) -> TrainSettings:
    return replace(settings, run=replace(settings.run, **run))


def batches(settings: TrainSettings) -> Iterator[Batch]:
    source = open_training_data(settings).pairs
    pairs = settings.pairs_per_batch(1)
    return iter(PairLoader(source, settings.network.preprocessing, pairs=pairs, state=LoaderState(0)))


def steps(settings: TrainSettings, count: int = 2) -> tuple[list[StepReport], Stepper]:
    graph = build_graph(settings, 0, None, lambda _: None)
    prepare_graph(graph, settings, lambda _: None)
    torch.manual_seed(1)
    stepper, data = Stepper(graph, settings, ALONE), batches(settings)
    return [stepper.step(data, i) for i in range(count)], stepper


@pytest.mark.parametrize(
    ("run", "tolerance"),
    [({"precision": "bf16"}, 0.05), ({"recompute": True}, 0.0)],
    ids=["bf16", "recompute"],
)
def test_precisions_and_recomputing_change_little_or_nothing(
    settings: TrainSettings, run: dict[str, Any], tolerance: float
) -> None:
    plain, changed = (steps(with_run(settings, **given))[0] for given in ({}, run))
    for ours, theirs in zip(changed, plain, strict=True):
        assert ours.total == pytest.approx(theirs.total, rel=tolerance, abs=0)
    assert changed[0].grad_norm == pytest.approx(plain[0].grad_norm, rel=4 * tolerance, abs=0)
    assert (changed[0].total == plain[0].total) == (tolerance == 0)


@pytest.mark.slow
# torch's own, while it compiles.
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:The .grad attribute:UserWarning")
@pytest.mark.usefixtures("operator_built")
def test_compiled_steps_equal_eager_ones(uneven: TrainSettings) -> None:
    uneven = override_settings(uneven, ["train.clip_norm=0.01", "run.operator=always"])
    eager, compiled = (steps(override_settings(uneven, [f"run.compile={on}"]))[0] for on in (False, True))
    for ours, theirs in zip(compiled, eager, strict=True):
        assert ours.losses == pytest.approx(theirs.losses, rel=1e-4)
        assert ours.grad_norm == pytest.approx(theirs.grad_norm, rel=1e-3)
    assert compiled[0].losses != eager[0].losses


def test_accumulated_gradient_is_the_mean(settings: TrainSettings) -> None:
    settings = replace(
        settings, network=replace(settings.network, train=replace(settings.network.train, clip_norm=math.inf))
    )
    model = replace(
        settings.network.model, dropout=0.0, backbone=replace(settings.network.model.backbone, drop_path=0.0)
    )
    settings = with_run(replace(settings, network=replace(settings.network, model=model)), accumulate=2)
    graph = build_graph(settings, 0, None, lambda _: None)
    given = batches(settings)
    both = [next(given), next(given)]
    alone = copy.deepcopy(graph)
    for batch in both:
        (alone(batch).total / 2).backward()
    report = Stepper(graph, settings, ALONE).step(iter(both), 0)
    gradients = {name: p.grad for name, p in graph.named_parameters() if p.grad is not None}
    assert gradients
    for name, parameter in alone.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(gradients[name], parameter.grad)
    assert report.grad_norm == pytest.approx(
        torch.stack([gradient.norm() for gradient in gradients.values()]).norm().item()
    )


def test_global_normaliser_makes_accumulated_batches_one(uneven: TrainSettings) -> None:
    # The first step only: a match may change after it.
    whole, parts, published = (
        steps(
            override_settings(
                uneven, [f"loss.global_normaliser={everywhere}", f"run.accumulate={accumulate}"]
            ),
            1,
        )[0][0]
        for everywhere, accumulate in ((True, 1), (True, 2), (False, 2))
    )
    assert parts.losses == pytest.approx(whole.losses, rel=1e-4)
    assert (parts.total, parts.grad_norm) == pytest.approx((whole.total, whole.grad_norm), rel=1e-4)
    assert published.losses != pytest.approx(whole.losses, rel=1e-2)


def test_counting_ahead_drops_the_same_units(settings: TrainSettings) -> None:
    assert settings.network.model.dropout > 0
    after = []
    for everywhere in (False, True):
        changes = [f"loss.global_normaliser={everywhere}", "run.accumulate=2", "run.precision=bf16"]
        (report,), stepper = steps(override_settings(settings, changes), 1)
        after.append(torch.get_rng_state())
    # The generators are in the same state as without the counting.
    assert torch.equal(*after)
    counted = stepper._local.criterion.normaliser(torch.zeros(()))
    assert counted[-2:].tolist() == [report.matched, report.items]


def test_gradient_is_clipped_over_the_whole_model(settings: TrainSettings) -> None:
    (report,), stepper = steps(settings, 1)
    groups = stepper.optimiser.param_groups
    gradients = [p.grad for group in groups for p in group["params"] if p.grad is not None]
    assert report.grad_norm > 1
    assert torch.stack([gradient.norm() for gradient in gradients]).norm().item() == pytest.approx(
        0.01, rel=1e-3
    )


def test_gradient_that_is_no_number_never_reaches_the_weights(
    settings: TrainSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph = build_graph(settings, 0, None, lambda _: None)
    stepper = Stepper(graph, settings, ALONE)
    before = copy.deepcopy(graph.state_dict())
    graph.model.transformer.level_embed.register_hook(lambda gradient: gradient * math.inf)
    with pytest.raises(TrainingError, match="iteration 6: the gradient's norm is"):
        stepper.step(batches(settings), 5)
    assert all(torch.equal(tensor, before[name]) for name, tensor in graph.state_dict().items())


def test_fp16_skips_steps_until_its_scale_fits(settings: TrainSettings) -> None:
    (plain, *_), _ = steps(settings, 1)
    settings = with_run(settings, precision="fp16")
    graph = build_graph(settings, 0, None, lambda _: None)
    torch.manual_seed(1)
    stepper, data = Stepper(graph, settings, ALONE), batches(settings)
    before = copy.deepcopy(graph.state_dict())
    report = stepper.step(data, 0)
    # Gradients of an untrained network times 2**16 exceed fp16's range.
    assert report.total == pytest.approx(plain.total, rel=0.01)
    assert report.skipped
    assert report.grad_norm == math.inf
    assert all(torch.equal(tensor, before[name]) for name, tensor in graph.state_dict().items())
    assert stepper.scaler.get_scale() == 2.0**15
    later = [stepper.step(data, i) for i in range(1, 12)]
    first = next(report for report in later if not report.skipped)
    # The gradients differ, their scale does not.
    assert plain.grad_norm / 10 < first.grad_norm < 10 * plain.grad_norm
    assert any(not torch.equal(tensor, before[name]) for name, tensor in graph.state_dict().items())
