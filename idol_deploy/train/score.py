"""The AP of a network in training on the videos that are held out."""

import contextlib
import shutil
from pathlib import Path

from idol_deploy.backend import TorchBackend
from idol_deploy.data.ytvis import VisDataset
from idol_deploy.evaluate.average_precision import metric_of, score
from idol_deploy.evaluate.inference import InferenceTask, run_videos
from idol_deploy.evaluate.predictions import read_predictions
from idol_deploy.model.idol import Idol
from idol_deploy.train.processes import Processes
from idol_runtime.pipeline import Pipeline

__all__ = ["evaluate_holdout"]


def evaluate_holdout(
    model: Idol, held_out: VisDataset, frames: Path, folder: Path, iteration: int, processes: Processes
) -> dict[str, float]:
    """The summary of the metric that the data set is made for, in every process; the processes share the videos.

    Args:
        model: left in the mode that it was in.
        held_out: the videos.
        frames: the folder of their frames.
        folder: gets `results-ITERATION.json`.
        iteration: how far the training is.
        processes: that train.

    Raises:
        SourceError: a frame cannot be read.
        OutputError: the results cannot be written.
    """
    results = folder / f"results-{iteration:08d}.json"
    if processes.first:
        # Of a run that was killed while it evaluated: its weights need not have been these to the last bit.
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(results.with_name(results.name + ".parts"))
    processes.gather(None)  # nobody writes into the folder before it is removed
    training = model.training
    try:
        task = InferenceTask(held_out, frames, results, {"iteration": iteration}, processes.shard)
        run_videos(task, lambda: Pipeline(TorchBackend(model), model.config.stream))
    finally:
        model.train(training)
    summary: dict[str, float] = {}
    if processes.first:
        summary = score(held_out, read_predictions(results, held_out), metric_of(held_out)).summary
    scores: dict[str, float] = processes.gather(summary)[0]
    return scores
