"""Checkpoints of a running training: all that it needs to go on, in one file that is whole or absent.

A snapshot is also a checkpoint as every other command takes it: its weights are under the published keys.
"""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import torch
from torch import Tensor

from idol_deploy.data.loader import LoaderState
from idol_deploy.model.idol import Idol
from idol_deploy.settings import TrainSettings, settings_from_json, settings_to_json
from idol_deploy.weights.checkpoint import save_checkpoint
from idol_runtime.errors import CheckpointError, OutputError
from idol_runtime.files import replacing

__all__ = ["Snapshot", "SnapshotFolder", "read_snapshot"]

_FORMAT = "idol-deploy training"
_FORMAT_VERSION = 1
_NAME = re.compile(r"iteration-(\d+)\.pt")


@dataclass(frozen=True)
class Snapshot:
    """A training run between two iterations.

    Attributes:
        settings: of the run.
        iteration: how many are done.
        model: the network's tensors under published keys.
        criterion: what is trained beside the network.
        optimiser: its state.
        scaler: of fp16; empty without.
        loader: where the data stands.
        chance: each process's generators.
        best: highest AP so far; None before the first evaluation.
    """

    settings: TrainSettings
    iteration: int
    model: Mapping[str, Tensor]
    criterion: Mapping[str, Tensor]
    optimiser: dict[str, Any]
    scaler: dict[str, Any]
    loader: LoaderState
    chance: list[dict[str, Any]]
    best: float | None = None


class _Contents(msgspec.Struct):
    """A `Snapshot` in its file."""

    settings: str
    iteration: int
    model: dict[str, Tensor]
    criterion: dict[str, Tensor]
    optimiser: dict[str, Any]
    scaler: dict[str, Any]
    loader: LoaderState
    chance: list[dict[str, Any]]
    best: float | None


def read_snapshot(path: Path) -> Snapshot:
    """Reads a snapshot; runs no code from it.

    Raises:
        CheckpointError: no such file, broken, or no snapshot of this version.
        DataError: the settings in it are another version's.
    """
    try:
        contents = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror or error}; check the path") from error
    except Exception as error:  # torch's unpickler raises whatever a broken file makes it meet
        raise CheckpointError(_broken(path)) from error
    if not isinstance(contents, dict) or contents.get("format") != _FORMAT:
        raise CheckpointError(
            f"{path} is no snapshot of a training run; start from its weights with --weights"
        )
    version = contents.get("format_version")
    if version != _FORMAT_VERSION:
        raise CheckpointError(
            f"{path} has snapshot format {version}, this version reads {_FORMAT_VERSION}; go on with the version that "
            "wrote it"
        )
    try:
        stored = msgspec.convert(contents, _Contents)
    except msgspec.ValidationError as error:
        raise CheckpointError(f"{_broken(path)} ({error})") from error
    settings = settings_from_json(stored.settings, path)
    return Snapshot(**{**msgspec.structs.asdict(stored), "settings": settings})


def _broken(path: Path) -> str:
    return f"{path} is broken or no snapshot; remove it, and --resume takes the one before it"


class SnapshotFolder:
    """What a training run leaves: its settings, its last snapshots, and the weights that were best."""

    def __init__(self, path: Path, keep_last: int) -> None:
        self.path = path
        self._keep_last = keep_last

    @property
    def log(self) -> Path:
        """The file of one JSON object per iteration."""
        return self.path / "log.jsonl"

    @property
    def best(self) -> Path:
        """The weights of the highest AP."""
        return self.path / "best.safetensors"

    @property
    def final(self) -> Path:
        """The weights in the end."""
        return self.path / "final.safetensors"

    def snapshots(self) -> list[Path]:
        """All snapshots, the newest last."""
        found = [path for path in self.path.glob("iteration-*.pt") if _NAME.fullmatch(path.name)]
        return sorted(found, key=lambda path: int(path.stem.partition("-")[2]))

    def newest(self) -> Path:
        """The snapshot to go on from.

        Raises:
            CheckpointError: there is none.
        """
        found = self.snapshots()
        if not found:
            raise CheckpointError(f"there is no snapshot in {self.path} to resume; leave --resume out")
        return found[-1]

    def begin(self, settings: TrainSettings, *, resumed: bool) -> None:
        """Makes the folder, and writes the settings into it.

        Raises:
            OutputError: it cannot be written, or holds another run.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(
                f"cannot make {self.path}: {error.strerror or error}; choose another place"
            ) from error
        # A log alone is of a run that was killed before its first snapshot: there is nothing to go on from.
        if not resumed and (self.snapshots() or self.final.exists() or self.best.exists()):
            raise OutputError(
                f"{self.path} holds a training run; continue it with --resume, or choose another"
            )
        for leftover in self.path.glob(".iteration-*.pt"):  # of a run that was killed while it wrote
            leftover.unlink(missing_ok=True)
        with replacing(self.path / "settings.json") as temporary:
            temporary.write_text(settings_to_json(settings), encoding="utf-8")

    def write(self, snapshot: Snapshot) -> Path:
        """Adds a snapshot, then removes those before the last few.

        Raises:
            OutputError: it cannot be written; those before it stay as they are.
        """
        path = self.path / f"iteration-{snapshot.iteration:08d}.pt"
        contents = {
            "format": _FORMAT,
            "format_version": _FORMAT_VERSION,
            "settings": settings_to_json(snapshot.settings),
            "iteration": snapshot.iteration,
            "model": dict(snapshot.model),
            "criterion": dict(snapshot.criterion),
            "optimiser": snapshot.optimiser,
            "scaler": snapshot.scaler,
            "loader": {"seed": snapshot.loader.seed, "position": snapshot.loader.position},
            "chance": snapshot.chance,
            "best": snapshot.best,
        }
        try:
            with replacing(path) as temporary, temporary.open("wb") as stream:
                torch.save(contents, stream)
                stream.flush()
                # Renamed before its contents are on the disk, it could be empty after a power cut.
                os.fsync(stream.fileno())
        except RuntimeError as error:  # torch's, of a disk that is full
            raise OutputError(
                f"cannot write {path}: {str(error).splitlines()[0]}; free some space, then continue with --resume"
            ) from error
        for old in self.snapshots()[: -self._keep_last]:
            old.unlink(missing_ok=True)
        return path

    def write_weights(self, path: Path, model: Idol, settings: TrainSettings) -> None:
        """Writes the weights alone, for every other command.

        Raises:
            OutputError: they cannot be written.
        """
        save_checkpoint(path, model, settings.network)
