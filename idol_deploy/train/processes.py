"""The processes that train together: one by itself, or those that torchrun starts on one machine or many."""

import contextlib
import datetime
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist

from idol_deploy.evaluate.shards import Shard
from idol_runtime.errors import ConfigError

__all__ = ["Processes", "joined"]

# The others wait while one scores the holdout.
_PATIENCE = datetime.timedelta(hours=1)


@dataclass(frozen=True)
class Processes:
    """This process among those that train together.

    Attributes:
        shard: which it is.
        device: its own.
    """

    shard: Shard
    device: torch.device

    @property
    def first(self) -> bool:
        """Whether this one writes what is written once."""
        return self.shard.rank == 0

    @property
    def several(self) -> bool:
        """Whether there are others."""
        return self.shard.count > 1

    def mean(self, values: Tensor) -> Tensor:
        """The mean over all processes, in place."""
        if self.several:
            dist.all_reduce(values)
            values /= self.shard.count
        return values

    def gather(self, value: Any) -> list[Any]:
        """The value of every process, in order; what it is made of must pickle."""
        if not self.several:
            return [value]
        values = [None] * self.shard.count
        dist.all_gather_object(values, value)
        return values


@contextlib.contextmanager
def joined(device: str) -> Iterator[Processes]:
    """Joins the processes that torchrun started: through NCCL on CUDA devices, through Gloo on CPUs.

    Args:
        device: `cpu`, `cuda` (of several processes, each takes its own) or `cuda:N`.

    Raises:
        ConfigError: there is no such device, or the others cannot be reached.
    """
    shard = Shard.from_environment()
    if device == "cuda" and shard.count > 1:
        device = f"cuda:{shard.local_rank}"
    chosen = _usable(device)
    if shard.count == 1:
        yield Processes(shard, chosen)
        return
    try:
        dist.init_process_group("nccl" if chosen.type == "cuda" else "gloo", timeout=_PATIENCE)
    except (RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"cannot reach the other processes: {reason}; start them with torchrun") from error
    try:
        yield Processes(shard, chosen)
    finally:
        dist.destroy_process_group()


def _usable(device: str) -> torch.device:
    try:
        chosen = torch.device(device)
        torch.empty(1, device=chosen)
    except (RuntimeError, AssertionError) as error:  # torch built without CUDA asserts
        raise ConfigError(f"PyTorch cannot use device {device}: {str(error).splitlines()[0]}") from error
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
    return chosen
