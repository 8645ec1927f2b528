"""Where PyTorch computes."""

import torch

from idol_runtime.errors import ConfigError

__all__ = ["torch_device"]


def torch_device(device: str) -> torch.device:
    """The device, seen to work.

    Args:
        device: `cpu`, `cuda` or `cuda:N`.

    Raises:
        ConfigError: there is no such device, or PyTorch cannot use it.
    """
    try:
        chosen = torch.device(device)
    except RuntimeError as error:  # with a list of all that PyTorch was ever built for
        raise ConfigError(f"PyTorch cannot use device {device}; use cpu, cuda or cuda:N") from error
    try:
        torch.empty(1, device=chosen)
    except (RuntimeError, AssertionError) as error:  # torch built without CUDA asserts
        reason = str(error).splitlines()[0]
        raise ConfigError(
            f"PyTorch cannot use device {device}: {reason}; use another, such as cpu"
        ) from error
    return chosen
