"""The data of a training run: its training set, the held-out videos, and the evaluation on them."""

import contextlib
import shutil
from dataclasses import dataclass
from pathlib import Path

from idol_deploy.backend import TorchBackend
from idol_deploy.data.faults import FaultLog
from idol_deploy.data.holdout import holdout
from idol_deploy.data.pairs import VideoPairs, open_pairs
from idol_deploy.data.samples import PairSource
from idol_deploy.data.ytvis import VisDataset, read_dataset
from idol_deploy.evaluate.average_precision import metric_of, score
from idol_deploy.evaluate.inference import InferenceTask, require_frames, run_videos
from idol_deploy.evaluate.predictions import read_predictions
from idol_deploy.model.idol import Idol
from idol_deploy.settings import TrainSettings
from idol_deploy.train.processes import Processes
from idol_runtime.errors import ConfigError, DataError
from idol_runtime.pipeline import Pipeline

__all__ = ["TrainingData", "evaluate_holdout", "open_training_data"]


@dataclass(frozen=True)
class TrainingData:
    """The data that a run reads.

    Attributes:
        pairs: source of the training pairs.
        held_out: videos to evaluate on; None if no videos are held out.
    """

    pairs: PairSource
    held_out: VisDataset | None = None


def open_training_data(settings: TrainSettings) -> TrainingData:
    """Read the annotations, and hold out the share of videos that the settings ask for.

    Raises:
        ConfigError: the settings evaluate without a holdout, or hold out still images.
        DataError: the annotations cannot be used (see `open_pairs`), or there is nothing to evaluate on.
        SourceError: a frame that is to be evaluated is missing.
        MissingDependencyError: pycocotools is not installed.
    """
    data, network = settings.data, settings.network
    if data.holdout is None:
        if settings.run.evaluate_period:
            raise ConfigError(
                "run.evaluate_period needs held-out videos to evaluate on; set data.holdout=0 as well"
            )
        return TrainingData(open_pairs(data.annotations, data.frames, network, strict=data.strict))
    if network.train.still_images:
        raise ConfigError(
            f"data.holdout splits videos, but {network.name} trains on still images; remove data.holdout"
        )
    log = FaultLog(data.strict)
    dataset = read_dataset(data.annotations, log, allow_empty=False)
    training, held_out = holdout(dataset, data.holdout, data.holdout_share)
    if settings.run.evaluate_period:
        require_frames(held_out.videos, Path(data.frames))
        if all(track.crowd for video in held_out.videos for track in held_out.tracks(video.id)):
            raise DataError(
                f"{data.annotations}: the held-out videos have no instance to evaluate on; choose another data.holdout"
            )
    pairs = VideoPairs(training, data.frames, network, log)
    return TrainingData(pairs, held_out)


def evaluate_holdout(
    model: Idol, held_out: VisDataset, frames: Path, folder: Path, iteration: int, processes: Processes
) -> dict[str, float]:
    """Evaluate a network on the held-out videos, shared among the processes.

    Args:
        model: network; its training mode is restored afterwards.
        held_out: held-out videos.
        frames: folder of their frames.
        folder: folder for the results file `results-ITERATION.json`.
        iteration: number of iterations done.
        processes: the training processes; each of them calls this function.

    Returns:
        The summary of the data set's own metric, the same in every process.

    Raises:
        SourceError: a frame cannot be read.
        OutputError: the results cannot be written.
    """
    results = folder / f"results-{iteration:08d}.json"
    if processes.first:
        # Parts of a run that was killed during this evaluation: its weights may differ in the last bits.
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(results.with_name(results.name + ".parts"))
    processes.gather(None)  # a barrier: no process writes into the folder before it is removed
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
