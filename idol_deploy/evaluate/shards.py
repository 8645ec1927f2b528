"""Work shared by several processes: the share of each, and the folder of finished parts that they have in common.

Processes communicate through small files in the folder only: `run.json` identifies the run, and process N touches
`rankN.started` while it is alive, then writes `rankN.RUN.done` or `rankN.failed`.
"""

import contextlib
import hashlib
import json
import math
import os
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from idol_runtime.errors import BackendError, ConfigError, OutputError
from idol_runtime.files import write_text

__all__ = ["PartsFolder", "Shard"]

_RUN_VARIABLES = ("TORCHELASTIC_RUN_ID", "MASTER_PORT", "TORCHELASTIC_RESTART_COUNT")
_IDENTITY = "run.json"
_ALIVE, _FAILED = "started", "failed"
_POLL_S = 0.2  # between checks of the other processes
_STALE_S = 30.0  # until a failure file of an earlier run counts: a process removes its own when it starts
_SIGN_S = 5.0  # between signs of life
_SILENT_S = 600.0  # without a sign of life a process counts as dead; loading a model takes minutes


@dataclass(frozen=True)
class Shard:
    """The share of one of several processes.

    Attributes:
        rank: number of the process, from 0; rank 0 merges the parts (default: 0).
        count: number of processes (default: 1).
        local_rank: number of the process on its machine, which selects its device (default: 0).
        run: key that is equal in all processes of one start, and differs between starts as far as torchrun's variables
            differ.
    """

    rank: int = 0
    count: int = 1
    local_rank: int = 0
    run: str = "0"

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> "Shard":
        """Read RANK, WORLD_SIZE and LOCAL_RANK as torchrun sets them; one process without them.

        Raises:
            ConfigError: the variables are no numbers or contradict each other.
        """
        names = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
        texts = [environment.get(name, default) for name, default in zip(names, ("0", "1", "0"), strict=True)]
        if not all(text.isdecimal() for text in texts) or not int(texts[0]) < int(texts[1]):
            given = ", ".join(f"{name}={text}" for name, text in zip(names, texts, strict=True))
            raise ConfigError(
                f"RANK must be below WORLD_SIZE, both whole numbers, got {given}; unset them or use torchrun"
            )
        start = json.dumps([environment.get(name, "") for name in _RUN_VARIABLES])
        rank, count, local_rank = map(int, texts)
        return cls(rank, count, local_rank, hashlib.sha256(start.encode()).hexdigest()[:8])


class PartsFolder:
    """The folder of the finished parts of a run.

    Attributes:
        path: the folder.
    """

    def __init__(self, path: Path, identity: Mapping[str, Any], shard: Shard) -> None:
        """Create the folder, or continue in an existing one of the same run.

        A folder without a finished part may belong to a run that failed at once, and is taken over.

        Args:
            path: folder to create.
            identity: everything that the results depend on; parts with another identity are refused.
            shard: share of this process.

        Raises:
            ConfigError: the folder has parts of another run.
            OutputError: the folder cannot be written.
        """
        self.path = path
        self._identity = json.dumps(identity, sort_keys=True, indent=1)
        self._shard = shard
        # Specific to this start: a process that starts late must find the folder, even with nothing left to compute.
        self._done = f"{shard.run}.done"
        self._touched = -math.inf
        try:
            path.mkdir(exist_ok=True)
            for kind in (_FAILED, self._done):
                self._marker(kind).unlink(missing_ok=True)
            if not self._has_parts():
                write_text(path / _IDENTITY, self._identity)
            sign = self._marker(_ALIVE)
            sign.write_text("")
            self._started = sign.stat().st_mtime  # by the clock of the file system
        except OSError as error:
            raise OutputError(f"cannot write {path}: {error.strerror}; choose another place") from error
        self.check_identity()

    def check_identity(self) -> None:
        """Check that the folder belongs to this run; another run may take over a folder without parts.

        Raises:
            ConfigError: the parts are of another run.
        """
        path = self.path / _IDENTITY
        text = path.read_text(errors="replace") if path.is_file() else ""
        if text != self._identity:
            raise ConfigError(
                f"{self.path} holds videos of another run ({_difference(text, self._identity)} differs); remove it, or "
                "give another --results"
            )

    def touch(self) -> None:
        """Leave a sign of life, every few seconds at most."""
        if time.monotonic() - self._touched > _SIGN_S:
            self._touched = time.monotonic()
            self._marker(_ALIVE).touch()

    def finish(self) -> None:
        """Report that this process has finished its share."""
        self._marker(self._done).write_text("")

    def fail(self, error: BaseException) -> None:
        """Report the failure of this process, and remove the folder if it has no parts and no other user."""
        if not isinstance(error, KeyboardInterrupt):
            # Written at once: the first process may read it at any time.
            with contextlib.suppress(OSError, OutputError):
                write_text(self._marker(_FAILED), str(error))
        if self._shard.count == 1 and not self._has_parts():
            self.remove()

    def remove(self) -> None:
        """Remove the folder."""
        shutil.rmtree(self.path, ignore_errors=True)

    def await_others(self) -> None:
        """Wait until every other process has finished its share.

        Raises:
            BackendError: a process failed, or gave no sign of life for ten minutes.
        """
        start = time.monotonic()
        waiting = list(range(1, self._shard.count))
        # The last time stamp of each process and when it was new; stamps of different clocks are never compared.
        signs: dict[int, tuple[int, float]] = dict.fromkeys(waiting, (0, start))
        while waiting := [rank for rank in waiting if not self._marker(self._done, rank).is_file()]:
            for rank in waiting:
                with contextlib.suppress(FileNotFoundError):
                    stamp = self._marker(_ALIVE, rank).stat().st_mtime_ns
                    if stamp != signs[rank][0]:
                        signs[rank] = stamp, time.monotonic()
                if time.monotonic() - signs[rank][1] > _SILENT_S:
                    raise BackendError(
                        f"process {rank} gave no sign of life for {_SILENT_S:.0f} s, because it never started or was "
                        "killed, as happens when memory is full; run all again to continue from here"
                    )
                with contextlib.suppress(FileNotFoundError):
                    new = self._marker(_FAILED, rank).stat().st_mtime >= self._started
                    if new or time.monotonic() - start > _STALE_S:
                        why = self._marker(_FAILED, rank).read_text()
                        raise BackendError(
                            f"process {rank} failed: {why}; fix the cause and run again to continue from here"
                        )
            time.sleep(_POLL_S)

    def _has_parts(self) -> bool:
        return any(path.name != _IDENTITY for path in self.path.glob("[!.]*.json"))

    def _marker(self, kind: str, rank: int | None = None) -> Path:
        """Return a marker file of a process (default: this one)."""
        return self.path / f"rank{self._shard.rank if rank is None else rank}.{kind}"


def _difference(theirs: str, ours: str) -> str:
    """Return the keys with different values in two identities."""
    try:
        other = json.loads(theirs)
    except (ValueError, RecursionError):
        return _IDENTITY
    keys = [k for k, v in json.loads(ours).items() if not isinstance(other, dict) or other.get(k) != v]
    return ", ".join(keys) or _IDENTITY
