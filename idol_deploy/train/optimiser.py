"""AdamW with a rate for the backbone and one for the rest, and their schedule (IDOL_SPEC §5.5).

The schedule is a function of the iteration, so that a run which is resumed has nothing of it to restore.
"""

import bisect
from typing import Any

from torch import nn
from torch.optim import AdamW, Optimizer

from idol_deploy.config import TrainConfig

__all__ = ["build_optimiser", "parameter_groups", "rate_factor", "set_rates"]


def parameter_groups(module: nn.Module, train: TrainConfig) -> list[dict[str, Any]]:
    """What trains, in two groups, each with its first rate in `initial_lr`: the backbone, and the rest.

    Frozen parameters are in neither; one with "backbone" in its name belongs to the backbone, as published.
    """
    groups: dict[bool, list[nn.Parameter]] = {True: [], False: []}
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            groups["backbone" in name].append(parameter)
    rates = {True: train.lr * train.backbone_lr_factor, False: train.lr}
    return [
        {"params": parameters, "lr": rates[backbone], "initial_lr": rates[backbone]}
        for backbone, parameters in groups.items()
        if parameters
    ]


def build_optimiser(module: nn.Module, train: TrainConfig) -> Optimizer:
    """AdamW over `parameter_groups`; weight decay on everything, as published."""
    return AdamW(
        parameter_groups(module, train), betas=train.betas, eps=train.eps, weight_decay=train.weight_decay
    )


def rate_factor(iteration: int, train: TrainConfig) -> float:
    """What the rates are multiplied by in this iteration, the first being 0.

    Linear warm-up, and `gamma` for each of `steps` that lies behind.
    """
    factor = train.gamma ** bisect.bisect_right(train.steps, iteration)
    if iteration < train.warmup_iterations:
        done = iteration / train.warmup_iterations
        factor *= train.warmup_factor * (1 - done) + done
    return factor


def set_rates(optimiser: Optimizer, iteration: int, train: TrainConfig) -> float:
    """Gives each group its rate for this iteration; returns that of the rest, which is not the backbone."""
    factor = rate_factor(iteration, train)
    for group in optimiser.param_groups:
        group["lr"] = group["initial_lr"] * factor
    return train.lr * factor
