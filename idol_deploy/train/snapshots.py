"""Snapshots of a training run: one file with everything that `--resume` needs.

A snapshot is also a checkpoint for every other command: it holds the weights under the published keys.
"""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import torch
from torch import Tensor

from idol_deploy.data.loader import LoaderState
from idol_deploy.settings import TrainSettings, settings_from_json, settings_to_json
from idol_runtime.errors import CheckpointError, OutputError
from idol_runtime.files import replacing, write_text

__all__ = ["Snapshot", "SnapshotFolder", "read_snapshot"]

_FORMAT = "idol-deploy training"
_FORMAT_VERSION = 1
_NAME = re.compile(r"iteration-(\d+)\.pt")


class Snapshot(msgspec.Struct, frozen=True):
    """The state of a training run between two iterations.

    Attributes:
        settings: settings of the run.
        iteration: number of iterations done.
        model: tensors of the network under published keys.
        criterion: state of the criterion, whose identity head is trained too.
        optimiser: state of the optimiser.
        scaler: state of the fp16 scaler; empty in other precisions.
        loader: position in the data.
        rng_states: random generator states of each process.
        best: highest AP so far; None before the first evaluation.
    """

    settings: TrainSettings
    iteration: int
    model: Mapping[str, Tensor]
    criterion: Mapping[str, Tensor]
    optimiser: dict[str, Any]
    scaler: dict[str, Any]
    loader: LoaderState
    rng_states: list[dict[str, Any]] = msgspec.field(name="chance")
    best: float | None


def read_snapshot(path: Path) -> Snapshot:
    """Read a snapshot; no code in the file runs.

    Raises:
        CheckpointError: the file does not exist, is broken, or is not a snapshot of this version.
        DataError: its settings are those of another version.
    """
    try:
        contents = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror or error}; check the path") from error
    except Exception as error:  # torch's unpickler can raise any error on a broken file
        raise CheckpointError(_broken(path)) from error
    if not isinstance(contents, dict) or contents.get("format") != _FORMAT:
        raise CheckpointError(
            f"{path} is not a snapshot of a training run; start from its weights with --weights"
        )
    version = contents.get("format_version")
    if version != _FORMAT_VERSION:
        raise CheckpointError(
            f"{path} has snapshot format {version}, this version reads {_FORMAT_VERSION}; resume with the version "
            "that wrote it"
        )
    if isinstance(contents.get("settings"), str):
        contents["settings"] = settings_from_json(contents["settings"], path)
    try:
        return msgspec.convert(contents, Snapshot)
    except (msgspec.ValidationError, RecursionError) as error:
        raise CheckpointError(f"{_broken(path)} ({error})") from error


def _broken(path: Path) -> str:
    return f"{path} is broken or not a snapshot; remove it, and --resume takes the one before it"


class SnapshotFolder:
    """The output folder of a training run: settings, log, last snapshots, best and final weights.

    Attributes:
        path: path of the folder.
        log: path of the log, one JSON object per line.
        best: path of the weights with the highest AP.
        final: path of the weights after the last iteration.
    """

    def __init__(self, path: Path, keep_last: int) -> None:
        self.path = path
        self.log = path / "log.jsonl"
        self.best = path / "best.safetensors"
        self.final = path / "final.safetensors"
        self._keep_last = keep_last

    def snapshots(self) -> list[Path]:
        """Return the paths of all snapshots, the newest last."""
        paths = [path for path in self.path.glob("iteration-*.pt") if _NAME.fullmatch(path.name)]
        return sorted(paths, key=lambda path: int(path.stem.partition("-")[2]))

    def newest(self) -> Path:
        """Return the path of the newest snapshot.

        Raises:
            CheckpointError: the folder has no snapshot.
        """
        snapshots = self.snapshots()
        if not snapshots:
            raise CheckpointError(f"there is no snapshot in {self.path} to resume; start without --resume")
        return snapshots[-1]

    def begin(self, settings: TrainSettings, *, resumed: bool) -> None:
        """Create the folder and write the settings.

        Raises:
            OutputError: the folder cannot be written, or holds another run.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(
                f"cannot make {self.path}: {error.strerror or error}; choose another folder"
            ) from error
        # A log without snapshots belongs to a run that was killed before its first snapshot: nothing can be resumed.
        if not resumed and (self.snapshots() or self.final.exists() or self.best.exists()):
            raise OutputError(
                f"{self.path} holds a training run; continue it with --resume, or choose another folder"
            )
        for leftover in self.path.glob(".iteration-*.pt"):  # of a run that was killed during a write
            leftover.unlink(missing_ok=True)
        write_text(self.path / "settings.json", settings_to_json(settings))

    def write(self, snapshot: Snapshot) -> Path:
        """Write a snapshot, then remove all but the last `keep_last`.

        Raises:
            OutputError: the snapshot cannot be written; earlier ones are unchanged.
        """
        path = self.path / f"iteration-{snapshot.iteration:08d}.pt"
        contents = msgspec.structs.asdict(snapshot) | {
            "format": _FORMAT,
            "format_version": _FORMAT_VERSION,
            "settings": settings_to_json(snapshot.settings),
            "model": dict(snapshot.model),
            "criterion": dict(snapshot.criterion),
            "loader": msgspec.to_builtins(snapshot.loader),
        }
        contents["chance"] = contents.pop("rng_states")
        try:
            with replacing(path) as temporary, temporary.open("wb") as stream:
                torch.save(contents, stream)
                stream.flush()
                # Otherwise a power cut after the rename could leave an empty file.
                os.fsync(stream.fileno())
        except RuntimeError as error:  # from torch, if the disk is full
            raise OutputError(
                f"cannot write {path}: {str(error).splitlines()[0]}; free some space, then continue with --resume"
            ) from error
        for old in self.snapshots()[: -self._keep_last]:
            old.unlink(missing_ok=True)
        return path
