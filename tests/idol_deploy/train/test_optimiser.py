from dataclasses import replace

import pytest
import torch

from idol_deploy.config import TrainConfig, preset
from idol_deploy.model.idol import Idol
from idol_deploy.train.optimiser import build_optimiser, rate_factor, restore_state, set_rates
from idol_runtime.errors import CheckpointError


def test_backbone_learns_slower_and_its_first_stages_not_at_all() -> None:
    with torch.device("meta"):
        model = Idol(preset("ytvis19_r50"))
    optimiser = build_optimiser(model, TrainConfig())
    backbone, rest = optimiser.param_groups
    assert (backbone["lr"], rest["lr"]) == (pytest.approx(1e-5), 1e-4)
    assert all(group["weight_decay"] == 1e-4 for group in (backbone, rest))
    trained = {id(parameter) for group in (backbone, rest) for parameter in group["params"]}
    frozen = {name for name, parameter in model.named_parameters() if id(parameter) not in trained}
    assert len(backbone["params"]) == sum(
        name.startswith(("backbone.res3", "backbone.res4", "backbone.res5"))
        for name, _ in model.named_parameters()
    )
    assert frozen
    assert all(name.startswith(("backbone.stem", "backbone.res2")) for name in frozen)


def test_sampling_has_a_rate_of_its_own() -> None:
    with torch.device("meta"):
        model = Idol(preset("edge_ytvis19"))
    optimiser = build_optimiser(model, model.config.train)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    groups = sorted(optimiser.param_groups, key=lambda group: group["lr"])
    assert [group["lr"] for group in groups] == pytest.approx([0.75e-4, 0.9e-4, 3e-4])
    backbone, sampling, rest = ([names[id(p)] for p in group["params"]] for group in groups)
    assert all(name.startswith("backbone.") for name in backbone)
    assert len(sampling) == 2 * (3 + 3) + 2
    assert all("sampling_offsets" in name or "transformer.reference_points" in name for name in sampling)
    assert not [name for name in rest if name.startswith("backbone.") or name in sampling]


def test_cosine_follows_torchs_scheduler() -> None:
    train = replace(TrainConfig(), schedule="cosine", iterations=9, warmup_iterations=0)
    theirs = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(theirs, 9)
    for iteration in range(9):
        assert rate_factor(iteration, train) == pytest.approx(theirs.param_groups[0]["lr"])
        theirs.step()
        schedule.step()
    assert rate_factor(20, train) == 0.0
    warm = replace(train, warmup_iterations=4, warmup_factor=0.0)
    assert rate_factor(1, warm) == pytest.approx(0.25 * rate_factor(1, train))


def test_rates_follow_torchs_schedulers() -> None:
    train = replace(TrainConfig(), steps=(6, 9), warmup_iterations=4, warmup_factor=0.25)
    parameter = torch.nn.Parameter(torch.zeros(1))
    theirs = torch.optim.SGD([parameter], lr=1.0)
    schedule = torch.optim.lr_scheduler.ChainedScheduler(
        [
            torch.optim.lr_scheduler.LinearLR(theirs, 0.25, total_iters=4),
            torch.optim.lr_scheduler.MultiStepLR(theirs, [6, 9], 0.1),
        ]
    )
    for iteration in range(12):
        assert rate_factor(iteration, train) == pytest.approx(theirs.param_groups[0]["lr"])
        theirs.step()
        schedule.step()


def test_published_schedule() -> None:
    train = TrainConfig()
    assert [rate_factor(i, train) for i in (0, 5, 7999, 8000, 11999)] == pytest.approx([1, 1, 1, 0.1, 0.1])


def test_rates_are_set_from_the_first_ones() -> None:
    train = TrainConfig(steps=(1, 2))
    model = torch.nn.ModuleDict({"backbone": torch.nn.Linear(1, 1), "head": torch.nn.Linear(1, 1)})
    optimiser = build_optimiser(model, train)
    for iteration in (0, 1, 2, 0, 2):
        set_rates(optimiser, iteration, train)
    assert [group["lr"] for group in optimiser.param_groups] == pytest.approx([1e-7, 1e-6])


def test_weights_move_as_published() -> None:
    """Loshchilov and Hutter's equations, in float64."""
    train = TrainConfig(lr=1e-2, weight_decay=0.1)
    module = torch.nn.Linear(3, 4)
    optimiser = build_optimiser(module, train)
    weights = module.weight.detach().double()
    first, second = torch.zeros_like(weights), torch.zeros_like(weights)
    gradients = torch.randn(5, 4, 3, generator=torch.Generator().manual_seed(0))
    for step, gradient in enumerate(gradients, 1):
        module.weight.grad = gradient.clone()
        optimiser.step()
        first = 0.9 * first + 0.1 * gradient
        second = 0.999 * second + 0.001 * gradient.double() ** 2
        direction = first / (1 - 0.9**step) / ((second / (1 - 0.999**step)).sqrt() + 1e-8)
        weights = (1 - 1e-2 * 0.1) * weights - 1e-2 * direction
    torch.testing.assert_close(module.weight.detach().double(), weights, rtol=1e-6, atol=1e-6)


class _Small(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.backbone, self.head = torch.nn.Linear(3, 2), torch.nn.Linear(2, 1)


def _stepped(module: torch.nn.Module, train: TrainConfig) -> torch.optim.Optimizer:
    optimiser = build_optimiser(module, train)
    for parameter in module.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimiser.step()
    return optimiser


def test_restored_moments_go_on_with_the_settings_of_now() -> None:
    module = _Small()
    saved = _stepped(module, TrainConfig()).state_dict()
    train = replace(
        TrainConfig(), lr=3e-6, backbone_lr_factor=0.5, weight_decay=0.2, betas=(0.8, 0.9), eps=1e-6
    )
    optimiser = build_optimiser(module, train)
    restore_state(optimiser, saved)
    for number, group in enumerate(optimiser.param_groups):
        assert (group["weight_decay"], group["betas"], group["eps"]) == (0.2, (0.8, 0.9), 1e-6)
        assert group["initial_lr"] == pytest.approx((1.5e-6, 3e-6)[number])
    assert set_rates(optimiser, 0, train) == optimiser.param_groups[1]["lr"] == 3e-6
    for number, parameter in enumerate(module.parameters()):
        assert torch.equal(optimiser.state[parameter]["exp_avg"], saved["state"][number]["exp_avg"])


@pytest.mark.parametrize("broken", [False, True])
def test_state_of_other_groups_is_refused(broken: bool) -> None:
    module = _Small()
    saved = _stepped(module, TrainConfig()).state_dict()
    if broken:
        del saved["param_groups"][0]["params"]
    train = TrainConfig() if broken else replace(TrainConfig(), backbone_lr_factor=1.0)
    with pytest.raises(
        CheckpointError, match=r"train\.backbone_lr_factor, .* start a new run from .* with --weights"
    ):
        restore_state(build_optimiser(module, train), saved)
