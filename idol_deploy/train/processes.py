"""The processes that train together: one by itself, or those that torchrun starts on one machine or many.

When one of them is killed, the others end with an error: at once where its connections close, and after ten minutes
where it is silent. A network that is cut says nothing.
"""

import contextlib
import datetime
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist

from idol_deploy.evaluate.shards import Shard
from idol_deploy.torch_device import torch_device
from idol_runtime.errors import ConfigError, TrainingError

__all__ = ["Processes", "joined"]

# For all to start, and then within an iteration, in which one may compile or write a snapshot.
_PATIENCE = datetime.timedelta(minutes=10)
# The others wait while one scores the holdout.
_LONG_PATIENCE = datetime.timedelta(hours=1)
# What torch's errors say when another process is gone; not all of them have a type of their own.
_GONE = re.compile(r"gloo|NCCL|peer|socket|connection|timed? ?out", re.IGNORECASE)


@dataclass(frozen=True)
class Processes:
    """This process among those that train together.

    Attributes:
        shard: which it is.
        device: its own.
        patient: for what may take the first process long; None: as everything else.
    """

    shard: Shard
    device: torch.device
    patient: dist.ProcessGroup | None = None

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
        dist.all_gather_object(values, value, group=self.patient)
        return values


@contextlib.contextmanager
def joined(device: str) -> Iterator[Processes]:
    """Joins the processes that torchrun started: through NCCL on CUDA devices, through Gloo on CPUs.

    Args:
        device: `cpu`, `cuda` (of several processes, each takes its own) or `cuda:N`.

    Raises:
        ConfigError: there is no such device, or the others cannot be reached.
        TrainingError: another process ended, or is silent.
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
        yield Processes(shard, chosen, dist.new_group(timeout=_LONG_PATIENCE, backend="gloo"))
    except RuntimeError as error:
        if not isinstance(error, dist.DistError) and not _GONE.search(str(error)):
            raise
        raise TrainingError(
            f"process {shard.rank} of {shard.count} lost the others: {_reason(error)}; if none of them tells why, one "
            "was killed, as happens when memory is full; continue all with --resume"
        ) from error
    finally:
        dist.destroy_process_group()


def _reason(error: RuntimeError) -> str:
    """The first sentence, without the place in torch's sources."""
    return re.sub(r"^\[\S*\] ", "", str(error).splitlines()[0]).partition(". ")[0]


def _usable(device: str) -> torch.device:
    chosen = torch_device(device)
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
    return chosen
