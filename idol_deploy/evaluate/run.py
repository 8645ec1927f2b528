"""`idol-deploy evaluate`: score a results file, or a model over a data set, against annotations."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from idol_deploy.data.holdout import HOLDOUT_SHARE, holdout
from idol_deploy.data.ytvis import VisDataset, read_dataset
from idol_deploy.evaluate.average_precision import RANGES, Metric, score
from idol_deploy.evaluate.inference import InferenceTask, missed_categories, run_videos
from idol_deploy.evaluate.model import ModelChoice, open_pipeline, stream_config
from idol_deploy.evaluate.predictions import Prediction, read_predictions, write_submission
from idol_deploy.evaluate.reappearance import score_reappearance
from idol_deploy.evaluate.report import document, table
from idol_deploy.evaluate.shards import Shard
from idol_deploy.evaluate.tracking import load_trackeval, score_tracking
from idol_runtime.errors import ConfigError, DataError
from idol_runtime.files import file_digest, refuse_replacing, require_suffix, writable_target, write_text
from idol_runtime.optional import import_optional
from idol_runtime.pipeline import Pipeline

__all__ = ["Evaluation", "EvaluationResult", "evaluate"]

Announce = Callable[[str], None]


@dataclass(frozen=True)
class Evaluation:
    """The inputs, scores and outputs of an evaluation.

    Attributes:
        gt: annotation file.
        pred: existing results file; None with `model`.
        model: model that produces the results; None with `pred`.
        frames: folder of frames (with `model`).
        results: file to write the model's results to (with `model`).
        metric: rules of AP and AR (default: `ytvis`).
        tracking: add HOTA, AssA, DetA, IDF1, identity switches and re-identification (default: False).
        ious: write the IoU matrices to `json` (default: False).
        json: file for all scores (default: none).
        submission: archive for an evaluation server (default: none).
        seed: seed of the holdout to evaluate; None (default): the whole data set.
        share: share of the recordings in the holdout (default: 0.1).
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
            raise ConfigError(
                "expected results or a model; give --pred, or --bundle, or --weights with --preset"
            )
        if self.model is not None and (self.frames is None or self.results is None):
            raise ConfigError(
                "running a model needs --frames, the folder of frames, and --results, the file to write"
            )
        if self.pred is not None and self.results is not None:
            raise ConfigError("--results is the output of a model; leave it out with --pred")


@dataclass(frozen=True)
class EvaluationResult:
    """The scores and outputs of an evaluation.

    Attributes:
        table: scores as text; empty for a data set without annotations and in all processes but the first.
        notes: messages about the scores.
        outputs: files written.
    """

    table: str = ""
    notes: tuple[str, ...] = ()
    outputs: tuple[Path, ...] = ()


def evaluate(task: Evaluation, announce: Announce) -> EvaluationResult:
    """Run an evaluation.

    Args:
        task: inputs, scores and outputs.
        announce: receives a message at each step.

    Raises:
        ConfigError: a shard, setting, preset or graph is invalid, parts are of another run, or an output is an input.
        DataError: annotations or results are broken; see `read_dataset` and `read_predictions`.
        SourceError: a frame is missing or broken.
        OutputError: an output cannot be written.
        MissingDependencyError: pycocotools is not installed, or TrackEval for `tracking`.
    """
    outputs = _check_outputs(task)
    import_optional("pycocotools.mask", "pycocotools", "evaluate", "evaluating")
    if task.tracking:
        load_trackeval()
    shard = Shard() if task.model is None else Shard.from_environment()
    if shard.count > 1 and task.model is not None and task.model.graph == "auto":
        raise ConfigError(
            "--graph auto may choose another graph in each process; name the graph, for example --graph fp32"
        )
    if shard.rank:
        announce = lambda _: None  # noqa: E731 - only the first process reports
    announce(f"reading {task.gt}")
    whole = read_dataset(task.gt)
    dataset = whole if task.seed is None else holdout(whole, task.seed, task.share)[1]
    if not dataset.annotated and (task.json is not None or (task.model is None and task.submission is None)):
        raise DataError(
            f"{dataset.path} has no annotations to score against; give --submission, and no --json"
        )
    results = task.pred
    missed: tuple[str, ...] = ()
    backend: dict[str, str | None] = {}
    if task.model is not None:
        results = task.results
        missed = missed_categories(stream_config(task.model).categories, dataset)
        for line in missed:
            announce(line)
        announce(f"running {task.model.file}")
        if not _run_model(task, task.model, dataset, shard, backend):
            return EvaluationResult()
    assert results is not None
    if task.submission is not None:
        write_submission(task.submission, results)
    notes = (*filter(None, [backend.get("backend")]), *(backend.get("remark") or "").splitlines())
    if not dataset.annotated:
        notes = (*notes, "the data set has no annotations, so there is no score")
        return EvaluationResult(notes=notes, outputs=outputs)
    announce(f"reading {results}")
    every = read_predictions(results, whole)
    predictions = [result for result in every if dataset.video(result.video_id)]
    announce("comparing masks")
    text = _score(task, dataset, predictions, backend)
    tracks = [track for video in dataset.videos for track in dataset.tracks(video.id)]
    crowds = sum(track.crowd for track in tracks)
    counts = f"{len(dataset.videos)} videos, {len(tracks)} instances, {len(predictions)} results"
    if len(predictions) < len(every):
        counts += f"; {len(every) - len(predictions)} results of other videos are left out"
    if crowds:
        counts += (
            f"; {crowds} instances are crowds (iscrowd 1), which are not scored, as in the official evaluators; set "
            "iscrowd to 0 if they are single objects"
        )
    if task.json is not None:
        outputs = (*outputs, task.json)
    return EvaluationResult(text, (*notes, counts, *missed), outputs)


def _check_outputs(task: Evaluation) -> tuple[Path, ...]:
    """Check that the outputs can be written; return those other than `json`."""
    outputs = [path for path in (task.results, task.json, task.submission) if path is not None]
    if len({path.resolve() for path in outputs}) < len(outputs):
        raise ConfigError("two outputs have the same name; give each its own")
    for path in outputs:
        writable_target(path)
    of_model = () if task.model is None else (task.model.file, task.model.preset, task.model.classes)
    refuse_replacing(outputs, [task.gt, task.pred, *of_model])
    if task.submission is not None:
        require_suffix(task.submission, "an archive", ".zip")
    return tuple(path for path in outputs if path != task.json)


def _score(
    task: Evaluation,
    dataset: VisDataset,
    predictions: Sequence[Prediction],
    backend: Mapping[str, str | None],
) -> str:
    """Score results, write the scores to `json`, and return them as a table."""
    scores = score(dataset, predictions, task.metric, keep_overlaps=task.ious)
    tracking = score_tracking(dataset, predictions) if task.tracking else None
    returns = score_reappearance(dataset, predictions) if task.tracking else None
    if task.json is not None:
        text = json.dumps(document(scores, tracking, returns, backend), indent=1, ensure_ascii=False)
        write_text(task.json, text + "\n")
    return table(scores, tracking, returns)


def _run_model(
    task: Evaluation,
    model: ModelChoice,
    dataset: VisDataset,
    shard: Shard,
    chosen: dict[str, str | None],  # output: backend and graph, if a video was left to compute
) -> bool:
    """Run the model as `run_videos` does."""
    assert task.frames is not None
    assert task.results is not None
    # Contents of files and presets instead of their paths, since settings may change in place.
    identity: dict[str, Any] = {
        "annotations": _digest(task.gt),
        "videos": [video.id for video in dataset.videos],
        "frames": str(task.frames.resolve()),
        "model": _digest(model.file),
        "network": model.network and msgspec.to_builtins(model.network.model),
        "backend": model.backend,
        "graph": model.graph,
        "fit": model.fit,
        **msgspec.to_builtins(stream_config(model)),
    }

    def opened() -> Pipeline:
        pipeline = open_pipeline(model, shard)
        backend = pipeline.backend
        chosen.update(backend=backend.name, graph=backend.graph, remark=backend.reason or None)
        return pipeline

    return run_videos(InferenceTask(dataset, task.frames, task.results, identity, shard), opened)


def _digest(path: Path) -> str:
    try:
        return file_digest(path)
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}; check the path") from error
