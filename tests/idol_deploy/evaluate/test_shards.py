"""Shares of processes from the variables of torchrun."""

from __future__ import annotations

import pytest

from idol_deploy.evaluate.shards import Shard
from idol_runtime.errors import ConfigError


def test_one_process_without_them() -> None:
    shard = Shard.from_environment({})
    assert (shard.rank, shard.count, shard.local_rank) == (0, 1, 0)


def test_processes_of_one_start_know_each_other() -> None:
    started = {"WORLD_SIZE": "4", "MASTER_PORT": "1", "TORCHELASTIC_RUN_ID": "a"}
    first, second = (Shard.from_environment(started | {"RANK": r, "LOCAL_RANK": r}) for r in ("0", "3"))
    assert (second.rank, second.count, second.local_rank) == (3, 4, 3)
    assert first.run == second.run
    assert Shard.from_environment(started | {"MASTER_PORT": "2"}).run != first.run


@pytest.mark.parametrize("values", [{"RANK": "2", "WORLD_SIZE": "2"}, {"RANK": "-1"}, {"WORLD_SIZE": "two"}])
def test_what_cannot_be(values: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match="RANK must be below WORLD_SIZE"):
        Shard.from_environment(values)
