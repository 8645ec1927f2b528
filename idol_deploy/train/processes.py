"""The training processes: a single one, or those that torchrun starts on one or several machines.

If one of them is killed, the others end with an error: at once if its connections close, or after ten minutes without
a sign of it, for example if a network cable is cut.
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

from idol_deploy.backend import torch_device
from idol_deploy.evaluate.shards import Shard
from idol_runtime.errors import ConfigError, TrainingError

__all__ = ["Processes", "joined"]

# Bound on the start, and on the wait within an iteration while another process compiles or writes a snapshot.
_PATIENCE = datetime.timedelta(minutes=10)
# Bound on the wait while one process scores the holdout.
_LONG_PATIENCE = datetime.timedelta(hours=1)
# Words in torch's errors about a lost process; some of these errors have no type of their own.
_LOST = re.compile(r"gloo|NCCL|peer|socket|connection|timed? ?out", re.IGNORECASE)


@dataclass(frozen=True)
class Processes:
    """This process among the training processes.

    Attributes:
        shard: rank of this process and number of processes.
        device: device of this process.
        patient: process group with a long timeout, for work of the first process alone; None for a single process.
    """

    shard: Shard
    device: torch.device
    patient: dist.ProcessGroup | None = None

    @property
    def first(self) -> bool:
        """True for the process that writes the files and the console output."""
        return self.shard.rank == 0

    @property
    def several(self) -> bool:
        """True if several processes train together."""
        return self.shard.count > 1

    def mean(self, values: Tensor) -> Tensor:
        """Replace the values by their mean over all processes, and return them."""
        if self.several:
            dist.all_reduce(values)
            values /= self.shard.count
        return values

    def gather(self, value: Any) -> list[Any]:
        """Return the values of all processes in order of rank; they must be picklable."""
        if not self.several:
            return [value]
        values = [None] * self.shard.count
        dist.all_gather_object(values, value, group=self.patient)
        return values


@contextlib.contextmanager
def joined(device: str) -> Iterator[Processes]:
    """Join the processes that torchrun started, with NCCL on CUDA devices and Gloo on CPUs.

    Args:
        device: `cpu`, `cuda:N`, or `cuda`: each of several processes then uses the device of its local rank.

    Raises:
        ConfigError: the device does not exist, or the other processes cannot be reached.
        TrainingError: another process ended or does not respond.
    """
    shard = Shard.from_environment()
    if device == "cuda" and shard.count > 1:
        device = f"cuda:{shard.local_rank}"
    chosen = torch_device(device)
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
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
        if not isinstance(error, dist.DistError) and not _LOST.search(str(error)):
            raise
        # The first sentence, without the location in the source code.
        reason = re.sub(r"^\[\S*\] ", "", str(error).splitlines()[0]).partition(". ")[0]
        raise TrainingError(
            f"process {shard.rank} of {shard.count} lost the others: {reason}; if none of them reports "
            "an error, one was killed, for example because memory is full; continue all with --resume"
        ) from error
    finally:
        dist.destroy_process_group()
