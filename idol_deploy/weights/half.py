"""Weights that fp16 holds exactly: rounded once, in the network, so that whatever is made of it has the same values.

Matrices and kernels are rounded. Vectors (biases, norms, statistics), a hundredth of the bytes, stay as they are.
"""

import copy

import torch
from torch import Tensor

from idol_deploy.model.idol import Idol
from idol_deploy.weights.layout import published_names
from idol_runtime.errors import CheckpointError

__all__ = ["is_stored_half", "with_half_weights"]

# Rounding a value to 11 bits changes it by 5e-4 of itself at most; more is lost only where fp16's range ends.
_LOST = 1e-3


def is_stored_half(tensor: Tensor) -> bool:
    """Whether a weight is one of those that are stored in 16 bits."""
    return tensor.is_floating_point() and tensor.ndim >= 2


def with_half_weights(model: Idol) -> Idol:
    """A copy of the network whose matrices and kernels have values of fp16, in float32; of itself, the same again.

    Raises:
        CheckpointError: fp16 cannot hold a weight: it is too large, or all of it too small.
    """
    rounded = copy.deepcopy(model)
    names = published_names(rounded)
    with torch.no_grad():
        for name, tensor in rounded.state_dict().items():
            if is_stored_half(tensor):
                tensor.copy_(_rounded(names[name], tensor))
    return rounded


def _rounded(name: str, tensor: Tensor) -> Tensor:
    half = tensor.half().float()
    if not bool(half.isfinite().all()):
        raise CheckpointError(
            f"{name} holds {float(tensor.abs().max()):.3g}, beyond the 65504 of fp16; store these weights in fp32"
        )
    if float((half - tensor).norm()) > _LOST * float(tensor.norm()):
        raise CheckpointError(
            f"{name} is too small for fp16 (its largest value is {float(tensor.abs().max()):.3g}); store these "
            "weights in fp32"
        )
    return half
