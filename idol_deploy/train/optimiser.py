"""AdamW with rates for backbone, sampling and the rest, and their schedule (docs/idol.md §5.5).

The schedule is a function of the iteration, so that a run which is resumed has nothing of it to restore.
"""

import bisect
import math
from collections.abc import Mapping
from typing import Any

from torch import nn
from torch.optim import AdamW, Optimizer

from idol_deploy.config import TrainConfig
from idol_runtime.errors import CheckpointError

__all__ = ["build_optimiser", "parameter_groups", "rate_factor", "restore_state", "set_rates"]


def parameter_groups(module: nn.Module, train: TrainConfig) -> list[dict[str, Any]]:
    """What trains, in a group for each rate, the first one in `initial_lr`; those of the backbone come first.

    Frozen parameters are in none; one with "backbone" in its name belongs to the backbone, as published.
    """
    groups: dict[float, list[nn.Parameter]] = {}
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            groups.setdefault(train.lr * _factor(name, train), []).append(parameter)
    return [{"params": parameters, "lr": rate, "initial_lr": rate} for rate, parameters in groups.items()]


def _factor(name: str, train: TrainConfig) -> float:
    if "backbone" in name:
        return train.backbone_lr_factor
    sampling = "sampling_offsets" in name or "reference_points" in name
    return train.sampling_lr_factor if sampling else 1.0


def build_optimiser(module: nn.Module, train: TrainConfig) -> Optimizer:
    """AdamW over `parameter_groups`; weight decay on everything, as published."""
    return AdamW(
        parameter_groups(module, train),
        betas=train.betas,
        eps=train.eps,
        weight_decay=train.weight_decay,
        fused=True,  # one pass over each tensor instead of a dozen
    )


def restore_state(optimiser: Optimizer, saved: Mapping[str, Any]) -> None:
    """Takes the moments over from an optimiser's `state_dict`; rates and all other settings stay this one's.

    Raises:
        CheckpointError: its groups are of other parameters.
    """
    try:
        groups = [
            own | {"params": theirs["params"]}
            for own, theirs in zip(optimiser.state_dict()["param_groups"], saved["param_groups"], strict=True)
        ]
        optimiser.load_state_dict({"state": saved["state"], "param_groups": groups})
    except (ValueError, LookupError, TypeError) as error:
        raise CheckpointError(
            "the snapshot's optimiser has other groups of parameters; leave train.backbone_lr_factor, "
            "train.sampling_lr_factor and what is frozen as they were, or begin anew from the snapshot's weights with "
            "--weights"
        ) from error


def rate_factor(iteration: int, train: TrainConfig) -> float:
    """What the rates are multiplied by in this iteration, the first being 0.

    Linear warm-up, and `gamma` for each of `steps` that lies behind or half a cosine, which would reach 0 after the
    last iteration.
    """
    if train.schedule == "cosine":
        factor = (1 + math.cos(math.pi * min(iteration / train.iterations, 1.0))) / 2
    else:
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
