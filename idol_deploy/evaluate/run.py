"""`idol-deploy evaluate`: results of a file, or of a model over a data set, against annotations."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec

from idol_deploy.data.holdout import HOLDOUT_SHARE, holdout
from idol_deploy.data.ytvis import VisDataset, read_dataset
from idol_deploy.evaluate.average_precision import RANGES, Metric, score
from idol_deploy.evaluate.inference import Work, missed_categories, run_videos
from idol_deploy.evaluate.model import ModelChoice, open_pipeline, stream_config
from idol_deploy.evaluate.predictions import Prediction, read_predictions
from idol_deploy.evaluate.reappearance import score_returns
from idol_deploy.evaluate.report import document, table
from idol_deploy.evaluate.shards import Shard
from idol_deploy.evaluate.submission import write_submission
from idol_deploy.evaluate.tracking import load_trackeval, score_tracking
from idol_deploy.settings import network_config
from idol_runtime.errors import ConfigError, DataError
from idol_runtime.files import file_digest, refuse_replacing, replacing, writable_target
from idol_runtime.optional import import_optional
from idol_runtime.pipeline import Pipeline
from idol_runtime.suffixes import require_suffix

__all__ = ["Evaluated", "Evaluation", "evaluate"]

Announce = Callable[[str], None]


@dataclass(frozen=True)
class Evaluation:
    """What to evaluate, and what to write.

    Attributes:
        gt: annotation file.
        pred: an existing results file; else
        model: what makes one, from
        frames: the folder of frames, as
        results: this file.
        metric: whose rules.
        tracking: also HOTA, AssA, DetA, IDF1, identity switches, and identities kept over absences.
        ious: keep the overlap matrices in `json`.
        json: all scores.
        submission: the server's archive.
        seed: of a holdout: the part of the data set that is evaluated; None: all of it.
        share: of the recordings in the holdout.
    """

    gt: Path
    pred: Path | None = None
    model: ModelChoice | None = None
    frames: Path | None = None
    results: Path | None = None
    metric: Metric = "ytvis"
    tracking: bool = False
    ious: bool = False
    json: Path | None = None
    submission: Path | None = None
    seed: int | None = None
    share: float = HOLDOUT_SHARE

    def __post_init__(self) -> None:
        if self.metric not in RANGES:
            raise ConfigError(f"metric must be one of {', '.join(RANGES)}, got {self.metric!r}")
        if (self.pred is None) == (self.model is None):
            raise ConfigError("give --pred, or a model: --bundle, or --weights with --preset")
        if self.model is not None and (self.frames is None or self.results is None):
            raise ConfigError(
                "running a model needs --frames, the folder of frames, and --results, the file to write"
            )
        if self.pred is not None and self.results is not None:
            raise ConfigError("--results is what a model writes; leave it out with --pred")


@dataclass(frozen=True)
class Evaluated:
    """What came of it.

    Attributes:
        table: scores for people; "" where the data set has no annotations, or another process has them.
        notes: what to know about them.
        outputs: what was written.
    """

    table: str = ""
    notes: tuple[str, ...] = ()
    outputs: tuple[Path, ...] = ()


def evaluate(task: Evaluation, announce: Announce) -> Evaluated:
    """Do it.

    Args:
        task: what to do.
        announce: told what is going on.

    Raises:
        ConfigError: a shard, setting or preset that cannot be, parts of another run, or an output that is an input.
        DataError: annotations or results that are broken; see `read_dataset` and `read_predictions`.
        SourceError: a frame that is missing or broken.
        OutputError: an output cannot be written.
        MissingDependencyError: pycocotools, or for tracking TrackEval, is not installed.
    """
    outputs = [path for path in (task.results, task.json, task.submission) if path is not None]
    if len({path.resolve() for path in outputs}) < len(outputs):
        raise ConfigError("two outputs have the same name; give each its own")
    for path in outputs:
        writable_target(path)
    of_model = () if task.model is None else (task.model.file, task.model.preset)
    refuse_replacing(outputs, [task.gt, task.pred, *of_model])
    if task.submission is not None:
        require_suffix(task.submission, "an archive", ".zip")
    import_optional("pycocotools.mask", "pycocotools", "evaluate", "evaluating")
    if task.tracking:
        load_trackeval()
    shard = Shard.from_environment() if task.model is not None else Shard()
    if shard.rank:
        announce = _silent
    announce(f"reading {task.gt}")
    whole = read_dataset(task.gt)
    dataset = whole if task.seed is None else holdout(whole, task.seed, task.share)[1]
    if not dataset.annotated and (task.json is not None or (task.model is None and task.submission is None)):
        raise DataError(
            f"{dataset.path} has no annotations to score against; give --submission, and no --json"
        )
    results = task.pred
    missed: tuple[str, ...] = ()
    ran: dict[str, str | None] = {}
    if task.model is not None:
        results = task.results
        missed = missed_categories(stream_config(task.model).categories, dataset)
        for line in missed:
            announce(line)
        announce(f"running {task.model.file}")
        if not _run_model(task, task.model, dataset, shard, ran):
            return Evaluated()
    assert results is not None
    if task.submission is not None:
        write_submission(task.submission, results)
    written = tuple(path for path in outputs if path != task.json)
    if not dataset.annotated:
        unscored = "the data set has no annotations, so there is no score"
        return Evaluated(notes=(*_told(ran), unscored), outputs=written)
    announce(f"reading {results}")
    predictions = [result for result in read_predictions(results, whole) if dataset.video(result.video_id)]
    done = _score(task, dataset, predictions, announce, written, ran)
    return replace(done, notes=(*done.notes, *missed))


def _told(ran: Mapping[str, str | None]) -> tuple[str, ...]:
    """For people: what ran, and why that."""
    return tuple(filter(None, (ran.get("backend"), ran.get("remark"))))


def _silent(_: str) -> None:
    """One process of several tells."""


def _score(
    task: Evaluation,
    dataset: VisDataset,
    predictions: Sequence[Prediction],
    announce: Announce,
    written: tuple[Path, ...],
    ran: Mapping[str, str | None],
) -> Evaluated:
    announce("comparing masks")
    scores = score(dataset, predictions, task.metric, keep_overlaps=task.ious)
    tracking = score_tracking(dataset, predictions) if task.tracking else None
    returns = score_returns(dataset, predictions) if task.tracking else None
    if task.json is not None:
        contents = document(scores, tracking, returns, ran)
        with replacing(task.json) as temporary:
            temporary.write_text(json.dumps(contents, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        written = (*written, task.json)
    instances = sum(len(dataset.tracks(video.id)) for video in dataset.videos)
    note = f"{len(dataset.videos)} videos, {instances} instances, {len(predictions)} results"
    return Evaluated(table(scores, tracking, returns), (*_told(ran), note), written)


def _run_model(
    task: Evaluation, model: ModelChoice, dataset: VisDataset, shard: Shard, ran: dict[str, str | None]
) -> bool:
    """As `run_videos` does; `ran` takes which backend and graph it was, where something was left to compute."""
    assert task.frames is not None
    assert task.results is not None
    # What files and presets say, and not where they are: settings may change in their place.
    identity: dict[str, Any] = {
        "annotations": _digest(task.gt),
        "videos": [video.id for video in dataset.videos],
        "frames": str(task.frames.resolve()),
        "model": _digest(model.file),
        "network": None if model.preset is None else msgspec.to_builtins(network_config(model.preset).model),
        "backend": model.backend,
        "graph": model.graph,
        "fit": model.fit,
        **msgspec.to_builtins(stream_config(model)),
    }
    work = Work(dataset, task.frames, task.results, identity, shard)

    def opened() -> Pipeline:
        pipeline = open_pipeline(model, shard)
        backend = pipeline.backend
        ran.update(backend=backend.name, graph=backend.graph, remark=backend.reason or None)
        return pipeline

    return run_videos(work, opened)


def _digest(path: Path) -> str:
    try:
        return file_digest(path)
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}; check the path") from error
