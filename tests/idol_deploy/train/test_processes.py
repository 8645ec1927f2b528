import os
import signal
import socket
import subprocess
import sys
import time

import pytest

from idol_deploy.train.processes import joined
from idol_runtime.errors import ConfigError

# Each process knows of the others, and nobody watches over them as torchrun does.
SCRIPT = """
import datetime, os, signal, sys
import torch
from idol_deploy.train import processes as module
from idol_runtime.errors import IdolError

silent = sys.argv[1] == "silent"
module._PATIENCE = datetime.timedelta(seconds=2 if silent else 60)
try:
    with module.joined("cpu") as processes:
        processes.mean(torch.ones(1))
        if processes.shard.rank == int(sys.argv[2]):
            os.kill(os.getpid(), signal.SIGSTOP if silent else signal.SIGKILL)
        processes.mean(torch.ones(1))
except IdolError as error:
    print(type(error).__name__, error)
    sys.exit(2)
"""


def start(rank: int, port: int, *arguments: object) -> subprocess.Popen[str]:
    places = {
        "RANK": rank,
        "LOCAL_RANK": rank,
        "WORLD_SIZE": 2,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
    }
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT, *map(str, arguments)],
        env=os.environ | {name: str(value) for name, value in places.items()},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def free_port() -> int:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        port: int = held.getsockname()[1]
    return port


@pytest.mark.parametrize(("how", "lost"), [("killed", 0), ("killed", 1), ("silent", 1)])
def test_a_process_that_is_gone_ends_the_others(how: str, lost: int) -> None:
    port = free_port()
    both = [start(rank, port, how, lost) for rank in (0, 1)]
    began = time.monotonic()
    try:
        told, errors = both[1 - lost].communicate(timeout=60)
    finally:
        both[lost].kill()
        both[lost].communicate()
    assert both[1 - lost].returncode == 2, errors
    assert told.startswith(f"TrainingError process {1 - lost} of 2 lost the others: ")
    assert "continue all with --resume" in told
    assert time.monotonic() - began < 50
    assert both[lost].returncode == -signal.SIGKILL


def test_processes_that_never_come_are_not_awaited_for_ever() -> None:
    alone = start(0, free_port(), "silent", 1)
    told, errors = alone.communicate(timeout=60)
    assert alone.returncode == 2, errors
    assert told.startswith("ConfigError cannot reach the other processes: ")
    assert "start them with torchrun" in told


def test_device_that_is_not_here_is_named() -> None:
    with pytest.raises(ConfigError, match="PyTorch cannot use device nonsense"), joined("nonsense"):
        pass
