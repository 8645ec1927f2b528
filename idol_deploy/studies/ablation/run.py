"""`idol-deploy ablate`: train what the rows need and score every row for every seed; continue an interrupted run.

OUTPUT/seed0/transport/      a training run, as `train` writes it
OUTPUT/seed0/temporal.json   a cell: the scores of a row for a seed
OUTPUT/ablation.json, .md    the table of all finished cells
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from idol_deploy.backend import TorchBackend
from idol_deploy.data.ytvis import VisDataset, read_dataset
from idol_deploy.evaluate.association_scores import association_scores, find_tracks
from idol_deploy.evaluate.average_precision import metric_of, require_annotations
from idol_deploy.evaluate.caching import CachingBackend
from idol_deploy.evaluate.tracking import load_trackeval
from idol_deploy.settings import TrainSettings, override_settings, settings_to_json
from idol_deploy.studies.ablation.rows import ROWS, TRAININGS, AblationRow
from idol_deploy.studies.ablation.table import COLUMNS, markdown, summarise
from idol_deploy.train.loop import Training, train
from idol_deploy.train.processes import Processes
from idol_deploy.train.snapshots import SnapshotFolder
from idol_deploy.weights.checkpoint import load_checkpoint
from idol_runtime.config import override_stream
from idol_runtime.errors import ConfigError, DataError, OutputError
from idol_runtime.files import write_text

__all__ = ["Ablation", "AblationResult", "ablate"]

Announce = Callable[[str], None]


@dataclass(frozen=True)
class Ablation:
    """The trainings, videos and output of an ablation.

    Attributes:
        settings: settings of every training except loss and seed.
        annotations: annotations of the videos to score on, with occlusion.
        frames: folder of their frames.
        output: folder for trainings, cells and table.
        seeds: seeds of the trainings (default: 0, 1, 2).
        rows: names of the rows (default: all).
        weights: checkpoint that every training starts from; None (default): random initialisation.
    """

    settings: TrainSettings
    annotations: Path
    frames: Path
    output: Path
    seeds: tuple[int, ...] = (0, 1, 2)
    rows: tuple[str, ...] = tuple(row.name for row in ROWS)
    weights: Path | None = None

    def __post_init__(self) -> None:
        known = [row.name for row in ROWS]
        unknown = [name for name in self.rows if name not in known]
        if unknown:
            raise ConfigError(f"there is no row {unknown[0]!r}; choose of {', '.join(known)}")
        if not self.seeds or not self.rows:
            raise ConfigError("an ablation has no seeds or rows; give at least one seed and one row")

    def cell(self, seed: int, row: AblationRow) -> Path:
        """Return the file of a row's scores."""
        return self.output / f"seed{seed}" / f"{row.name}.json"

    def training(self, seed: int, name: str) -> SnapshotFolder:
        """Return the folder of a training."""
        return SnapshotFolder(self.output / f"seed{seed}" / name, self.settings.run.keep_last)


@dataclass(frozen=True)
class AblationResult:
    """The table of an ablation.

    Attributes:
        table: Markdown; empty in all processes but the first, and without a finished cell.
        interrupted: True if the run was stopped before its end.
        outputs: files written.
    """

    table: str
    interrupted: bool
    outputs: tuple[Path, ...]


def ablate(task: Ablation, processes: Processes, announce: Announce) -> AblationResult:
    """Compute the missing trainings and cells.

    Args:
        task: trainings, videos and output.
        processes: cooperating processes; each calls this function.
        announce: receives a message at each step, in the first process.

    Raises:
        ConfigError: settings contradict each other, or the folder has another ablation.
        DataError: the videos to score on have no annotations or no occlusion.
        TrainingError: a training failed; it and all others can be resumed.
        MissingDependencyError: TrackEval or pycocotools is not installed.
    """
    load_trackeval()
    dataset = read_dataset(task.annotations)
    require_annotations(dataset)
    if metric_of(dataset) != "ovis":
        raise DataError(
            f"{task.annotations} has no occlusion levels; give videos with them, such as OVIS or synth"
        )
    if processes.first:
        _claim_output(task)
    processes.gather(None)
    chosen = [row for row in ROWS if row.name in task.rows]
    for seed in task.seeds:
        for name in TRAININGS:
            rows = [row for row in chosen if row.training == name and not task.cell(seed, row).is_file()]
            if not rows:
                continue
            announce(f"seed {seed}: training {name}")
            if not _train(task, seed, name, processes, announce):
                return _write_table(task, processes, interrupted=True)
            _score_rows(task, seed, rows, dataset, processes, announce)
    return _write_table(task, processes, interrupted=False)


def _claim_output(task: Ablation) -> None:
    """Create the output folder; refuse one with other settings, since their cells must not share a table."""
    path = task.output / "task.json"
    try:
        for seed in task.seeds:
            (task.output / f"seed{seed}").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot make {task.output}: {error.strerror}; choose another place") from error
    contents = {
        "settings": json.loads(settings_to_json(task.settings)),
        "annotations": str(task.annotations),
        "frames": str(task.frames),
        "weights": None if task.weights is None else str(task.weights),
    }
    if not path.is_file():
        write_text(path, _to_json(contents))
    elif path.read_text(encoding="utf-8") != _to_json(contents):
        raise ConfigError(f"{task.output} has an ablation with other settings; choose another folder")


def _train(task: Ablation, seed: int, name: str, processes: Processes, announce: Announce) -> bool:
    """Train, or continue a training; return whether it is complete."""
    folder = task.training(seed, name)
    if folder.final.is_file():
        return True
    snapshots = folder.snapshots()
    settings = override_settings(task.settings, [*TRAININGS[name], f"run.seed={seed}"])
    resume = snapshots[-1] if snapshots else None
    processes.gather(None)  # all processes list the snapshots before one writes
    result = train(Training(settings, folder.path, task.weights, resume), processes, announce)
    processes.gather(None)
    return not result.interrupted


def _score_rows(
    task: Ablation,
    seed: int,
    rows: Sequence[AblationRow],
    dataset: VisDataset,
    processes: Processes,
    announce: Announce,
) -> None:
    """Score the rows of one training."""
    network = task.settings.network
    model = load_checkpoint(task.training(seed, rows[0].training).final, network).to(processes.device)
    backend = CachingBackend(TorchBackend(model))
    for row in rows:
        announce(f"seed {seed}: {row.title}")
        results = find_tracks(
            backend,
            override_stream(network.stream, row.association),
            dataset,
            task.frames,
            task.output / f"seed{seed}" / row.name,
            identity={"row": row.name, "seed": seed},
            shard=processes.shard,
            barrier=lambda: processes.gather(None),
        )
        if results is not None:
            cell = {"row": row.name, "seed": seed, "scores": association_scores(dataset, results)}
            write_text(task.cell(seed, row), _to_json(cell))
        processes.gather(None)


def _write_table(task: Ablation, processes: Processes, *, interrupted: bool) -> AblationResult:
    """Write the table of all finished cells."""
    cells: dict[str, dict[int, dict[str, float]]] = {}
    for row in ROWS if processes.first else ():
        for path in sorted(task.output.glob(f"seed*/{row.name}.json")):
            cell = json.loads(path.read_text(encoding="utf-8"))
            cells.setdefault(row.name, {})[cell["seed"]] = cell["scores"]
    if not cells:
        return AblationResult("", interrupted, ())
    summary = summarise(cells)
    text = markdown(summary)
    outputs = task.output / "ablation.json", task.output / "ablation.md"
    write_text(outputs[0], _to_json({"columns": COLUMNS, "rows": summary, "cells": cells}))
    write_text(outputs[1], text)
    return AblationResult(text, interrupted, outputs)


def _to_json(value: Any) -> str:
    return json.dumps(value, indent=1) + "\n"
