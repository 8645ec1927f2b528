"""Which part of a data set this process takes, when torchrun or a script starts several."""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass

from idol_runtime.errors import ConfigError

__all__ = ["Shard"]

_OF_ONE_START = ("TORCHELASTIC_RUN_ID", "MASTER_PORT", "TORCHELASTIC_RESTART_COUNT")


@dataclass(frozen=True)
class Shard:
    """One of several processes.

    Attributes:
        rank: which, from 0; rank 0 puts the parts together.
        count: how many there are.
        local_rank: which of this machine's, for the choice of its device.
        run: the same in all processes of one start, another in the next as far as torchrun tells.
    """

    rank: int = 0
    count: int = 1
    local_rank: int = 0
    run: str = "0"

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> "Shard":
        """What RANK, WORLD_SIZE and LOCAL_RANK say, as torchrun sets them; one process without them.

        Raises:
            ConfigError: they are no numbers, or do not fit together.
        """
        names = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
        texts = [environment.get(name, default) for name, default in zip(names, ("0", "1", "0"), strict=True)]
        if not all(text.isdecimal() for text in texts) or not int(texts[0]) < int(texts[1]):
            given = ", ".join(f"{name}={text}" for name, text in zip(names, texts, strict=True))
            raise ConfigError(
                f"{given}: RANK must be below WORLD_SIZE, both whole numbers; unset them or use torchrun"
            )
        start = [environment.get(name, "") for name in _OF_ONE_START]
        rank, count, local_rank = map(int, texts)
        return cls(rank, count, local_rank, hashlib.sha256(json.dumps(start).encode()).hexdigest()[:8])
