"""`idol-deploy ablate`: trains what the rows need, scores every row for every seed, and goes on where it was cut off.

OUTPUT/seed0/transport/      a training run as `train` leaves it
OUTPUT/seed0/temporal.json   a cell: the scores of a row
OUTPUT/ablation.json, .md    the table of all cells that are there
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from idol_deploy.backend import TorchBackend
from idol_deploy.data.ytvis import VisDataset, read_dataset
from idol_deploy.evaluate.association_scores import association_scores, find_tracks
from idol_deploy.evaluate.average_precision import metric_of
from idol_deploy.evaluate.caching import CachingBackend
from idol_deploy.evaluate.tracking import load_trackeval
from idol_deploy.settings import TrainSettings, override, settings_to_json
from idol_deploy.studies.ablation.rows import ROWS, TRAININGS, Row
from idol_deploy.studies.ablation.table import COLUMNS, markdown, summarise
from idol_deploy.train.loop import Training, train
from idol_deploy.train.processes import Processes
from idol_deploy.train.snapshots import SnapshotFolder
from idol_deploy.weights.checkpoint import load_checkpoint
from idol_runtime.config import override as override_stream
from idol_runtime.errors import ConfigError, DataError, OutputError
from idol_runtime.files import replacing

__all__ = ["Ablated", "Ablation", "ablate"]

Announce = Callable[[str], None]


@dataclass(frozen=True)
class Ablation:
    """What to train, what to score it on, and where it goes.

    Attributes:
        settings: of every training, but for its loss and seed.
        annotations: of the videos to score on.
        frames: the folder of their frames.
        output: the folder of trainings and cells.
        seeds: of the trainings.
        rows: names of those wanted.
        weights: a checkpoint that every training starts from; None: fresh weights.
    """

    settings: TrainSettings
    annotations: Path
    frames: Path
    output: Path
    seeds: tuple[int, ...] = (0, 1, 2)
    rows: tuple[str, ...] = tuple(row.name for row in ROWS)
    weights: Path | None = None

    def __post_init__(self) -> None:
        unknown = [name for name in self.rows if name not in {row.name for row in ROWS}]
        if unknown:
            known = ", ".join(row.name for row in ROWS)
            raise ConfigError(f"there is no row {unknown[0]!r}; choose of {known}")
        if not self.seeds or not self.rows:
            raise ConfigError("an ablation needs at least one seed and one row")


@dataclass(frozen=True)
class Ablated:
    """What came of it.

    Attributes:
        table: Markdown; "" in all processes but the first, and where no cell is done.
        interrupted: it was asked to stop before the end.
        outputs: what was written.
    """

    table: str
    interrupted: bool
    outputs: tuple[Path, ...]


def ablate(task: Ablation, processes: Processes, announce: Announce) -> Ablated:
    """Does what is missing.

    Args:
        task: what to do.
        processes: that work together; each calls this.
        announce: told what is going on; of the first process.

    Raises:
        ConfigError: settings that do not go together, or a folder of another ablation.
        DataError: videos to score on without occlusion levels or annotations.
        TrainingError: a training went wrong; it and all others can be resumed.
        MissingDependencyError: TrackEval or pycocotools is not installed.
    """
    load_trackeval()
    dataset = read_dataset(task.annotations)
    if not dataset.annotated:
        raise DataError(f"{task.annotations} has no annotations to score against; give videos that have")
    if metric_of(dataset) != "ovis":
        raise DataError(
            f"{task.annotations} does not say how far its instances are hidden; give videos that do"
        )
    if processes.first:
        _claim(task)
    processes.gather(None)
    wanted = [row for row in ROWS if row.name in task.rows]
    for seed in task.seeds:
        for name in TRAININGS:
            rows = [row for row in wanted if row.training == name and not _cell(task, seed, row).is_file()]
            if not rows:
                continue
            announce(f"seed {seed}: training {name}")
            if not _trained(task, seed, name, processes, announce):
                return _tell(task, processes, interrupted=True)
            _score_rows(task, seed, rows, dataset, processes, announce)
    return _tell(task, processes, interrupted=False)


def _cell(task: Ablation, seed: int, row: Row) -> Path:
    return task.output / f"seed{seed}" / f"{row.name}.json"


def _folder(task: Ablation, seed: int, training: str) -> SnapshotFolder:
    return SnapshotFolder(task.output / f"seed{seed}" / training, task.settings.run.keep_last)


def _claim(task: Ablation) -> None:
    """Cells of other settings must not end up in one table; how many seeds and rows there are may change."""
    path = task.output / "task.json"
    try:
        for seed in task.seeds:
            (task.output / f"seed{seed}").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot make {task.output}: {error.strerror}; choose another place") from error
    told = {
        "settings": json.loads(settings_to_json(task.settings)),
        "annotations": str(task.annotations),
        "frames": str(task.frames),
        "weights": None if task.weights is None else str(task.weights),
    }
    text = json.dumps(told, indent=1) + "\n"
    if path.is_file():
        if path.read_text(encoding="utf-8") != text:
            raise ConfigError(f"{task.output} holds an ablation with other settings; choose another folder")
        return
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _trained(task: Ablation, seed: int, name: str, processes: Processes, announce: Announce) -> bool:
    """Whether the training came to its end, now or before."""
    folder = _folder(task, seed, name)
    if folder.final.is_file():
        return True
    snapshots = folder.snapshots()
    settings = override(task.settings, [*TRAININGS[name], f"run.seed={seed}"])
    resume = snapshots[-1] if snapshots else None
    processes.gather(None)  # all look before one writes
    done = train(Training(settings, folder.path, task.weights, resume), processes, announce)
    processes.gather(None)
    return not done.interrupted


def _score_rows(
    task: Ablation,
    seed: int,
    rows: Sequence[Row],
    dataset: VisDataset,
    processes: Processes,
    announce: Announce,
) -> None:
    """Scores the rows of one training."""
    network = task.settings.network
    weights = _folder(task, seed, rows[0].training).final
    model = load_checkpoint(weights, network).to(processes.device)
    backend = CachingBackend(TorchBackend(model))
    for row in rows:
        announce(f"seed {seed}: {row.title}")
        found = find_tracks(
            backend,
            override_stream(network.stream, row.association),
            dataset,
            task.frames,
            task.output / f"seed{seed}" / row.name,
            identity={"row": row.name, "seed": seed},
            shard=processes.shard,
            barrier=lambda: processes.gather(None),
        )
        if found is not None:
            told = {"row": row.name, "seed": seed, "scores": association_scores(dataset, found)}
            with replacing(_cell(task, seed, row)) as temporary:
                temporary.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
        processes.gather(None)


def _tell(task: Ablation, processes: Processes, *, interrupted: bool) -> Ablated:
    """The table of all cells that are there."""
    if not processes.first:
        return Ablated("", interrupted, ())
    cells: dict[str, dict[int, dict[str, float]]] = {}
    for row in ROWS:
        for path in sorted(task.output.glob(f"seed*/{row.name}.json")):
            cell = json.loads(path.read_text(encoding="utf-8"))
            cells.setdefault(row.name, {})[cell["seed"]] = cell["scores"]
    if not cells:
        return Ablated("", interrupted, ())
    summary = summarise(cells)
    text = markdown(summary)
    outputs = task.output / "ablation.json", task.output / "ablation.md"
    told = {"columns": COLUMNS, "rows": summary, "cells": cells}
    for path, contents in zip(outputs, (json.dumps(told, indent=1) + "\n", text), strict=True):
        with replacing(path) as temporary:
            temporary.write_text(contents, encoding="utf-8")
    return Ablated(text, interrupted, outputs)
