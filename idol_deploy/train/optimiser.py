"""AdamW with learning rates for backbone, sampling and the rest, and their schedule (docs/idol.md §5.5).

The schedule is a function of the iteration, so a resumed run restores no state of it.
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
    """Group the trainable parameters by learning rate, the backbone's first; `initial_lr` is the unscheduled rate.

    As published, every parameter with "backbone" in its name belongs to the backbone.
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
    """Build AdamW over `parameter_groups`, with weight decay on every parameter, as published."""
    return AdamW(
        parameter_groups(module, train),
        betas=train.betas,
        eps=train.eps,
        weight_decay=train.weight_decay,
        fused=True,  # one pass over each tensor instead of a dozen
    )


def restore_state(optimiser: Optimizer, saved: Mapping[str, Any]) -> None:
    """Restore the moments from an optimiser's `state_dict`; rates and all other settings are not restored.

    Raises:
        CheckpointError: the saved groups contain other parameters.
    """
    try:
        groups = [
            own | {"params": theirs["params"]}
            for own, theirs in zip(optimiser.state_dict()["param_groups"], saved["param_groups"], strict=True)
        ]
        optimiser.load_state_dict({"state": saved["state"], "param_groups": groups})
    except (ValueError, LookupError, TypeError) as error:
        raise CheckpointError(
            "the snapshot's optimiser has other parameter groups; keep train.backbone_lr_factor, "
            "train.sampling_lr_factor and the frozen stages unchanged, or start a new run from the snapshot's weights "
            "with --weights"
        ) from error


def rate_factor(iteration: int, train: TrainConfig) -> float:
    """Return the factor of all learning rates in this iteration, counted from 0.

    After a linear warm-up, the factor is `gamma` for each of the passed `steps`, or half a cosine that reaches 0 at the
    end of the run.
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
    """Set the rate of each group for this iteration; return the rate of parameters without a factor of their own."""
    factor = rate_factor(iteration, train)
    for group in optimiser.param_groups:
        group["lr"] = group["initial_lr"] * factor
    return train.lr * factor
