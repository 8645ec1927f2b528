"""Networks with weights of fp16 precision: they are rounded once, so that every file made of them has the same values.

Matrices and kernels are rounded. Vectors (biases, norms, statistics) stay in fp32; they are 1% of the bytes.
"""

import copy

import torch
from torch import Tensor

from idol_deploy.model.idol import Idol
from idol_deploy.weights.layout import published_names
from idol_runtime.errors import CheckpointError

__all__ = ["is_stored_half", "with_half_weights"]

# Rounding to 11 bits changes a value by at most 5e-4 of itself; a larger change means that it is outside fp16's range.
_MAX_CHANGE = 1e-3


def is_stored_half(tensor: Tensor) -> bool:
    """Return True if a weight is stored in 16 bits."""
    return tensor.is_floating_point() and tensor.ndim >= 2


def with_half_weights(model: Idol) -> Idol:
    """Copy a network and round the copy's matrices and kernels to fp16 values, stored as float32.

    Raises:
        CheckpointError: fp16 cannot hold a weight: a value is too large, or all values are too small.
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
            f"{name} has a value of {float(tensor.abs().max()):.3g}, above fp16's 65504; store these weights in fp32"
        )
    if float((half - tensor).norm()) > _MAX_CHANGE * float(tensor.norm()):
        raise CheckpointError(
            f"{name} is too small for fp16 (its largest value is {float(tensor.abs().max()):.3g}); store these "
            "weights in fp32"
        )
    return half
