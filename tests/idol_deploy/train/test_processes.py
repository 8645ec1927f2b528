import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from idol_deploy.train.processes import joined
from idol_runtime.errors import ConfigError
from samples.waiting import LIMIT_S
from servers.rtsp import free_port

# The processes find each other without torchrun, which would end all of them.
SCRIPT = """
import datetime, os, signal, sys
import torch
from idol_deploy.train import processes as module
from idol_runtime.errors import IdolError

how, lost, patience = sys.argv[1:]
module._PATIENCE = datetime.timedelta(seconds=float(patience))
try:
    with module.joined("cpu") as processes:
        processes.mean(torch.ones(1))
        if processes.shard.rank == int(lost):
            os.kill(os.getpid(), signal.SIGSTOP if how == "stopped" else signal.SIGKILL)
        processes.mean(torch.ones(1))
except IdolError as error:
    print(type(error).__name__, error)
    sys.exit(2)
"""


@contextlib.contextmanager
def started(rank: int, port: int, *arguments: object) -> Iterator[subprocess.Popen[str]]:
    places = {
        "RANK": rank,
        "LOCAL_RANK": rank,
        "WORLD_SIZE": 2,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
    }
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, *map(str, arguments)],
        env=os.environ | {name: str(value) for name, value in places.items()},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


# A stopped process sends nothing; both must start within the timeout, also on a busy machine.
@pytest.mark.parametrize(
    ("how", "lost", "patience"),
    [("killed", 0, LIMIT_S), ("killed", 1, LIMIT_S), pytest.param("stopped", 1, 30, marks=pytest.mark.slow)],
)
def test_a_process_that_is_gone_ends_the_others(how: str, lost: int, patience: float) -> None:
    port = free_port()
    with (
        started(lost, port, how, lost, patience) as gone,
        started(1 - lost, port, how, lost, patience) as left,
    ):
        output, _ = left.communicate(timeout=2 * LIMIT_S)
    assert left.returncode == 2, output
    assert f"TrainingError process {1 - lost} of 2 lost the others: " in output
    assert "continue all with --resume" in output
    assert ".cc:" not in output.partition("TrainingError")[2]
    assert gone.returncode == -signal.SIGKILL


def test_processes_that_never_come_are_not_awaited_for_ever() -> None:
    with started(0, free_port(), "killed", 1, 2) as alone:
        output, _ = alone.communicate(timeout=LIMIT_S)
    assert alone.returncode == 2, output
    assert "ConfigError cannot reach the other processes: " in output
    assert "start them with torchrun" in output


def test_device_that_is_not_here_is_named() -> None:
    with pytest.raises(ConfigError, match=r"device nonsense; use cpu, cuda or cuda:N$"), joined("nonsense"):
        pass
