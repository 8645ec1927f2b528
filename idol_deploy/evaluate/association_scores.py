"""Scores of an association method: AP, identity scores, and re-identification after absence.

AP ranks one result per likely class of a track; identity scores take one class per track. All videos are thus run
twice; with a `CachingBackend` the network runs once.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from idol_deploy.data.ytvis import VisDataset
from idol_deploy.evaluate.average_precision import score
from idol_deploy.evaluate.inference import InferenceTask, run_videos
from idol_deploy.evaluate.predictions import Prediction, read_predictions
from idol_deploy.evaluate.reappearance import score_reappearance
from idol_deploy.evaluate.shards import Shard
from idol_deploy.evaluate.tracking import CLASS_MEAN, score_tracking
from idol_runtime.backends import Backend
from idol_runtime.config import StreamConfig
from idol_runtime.pipeline import Pipeline

__all__ = ["TrackResults", "association_scores", "find_tracks"]


@dataclass(frozen=True)
class TrackResults:
    """Results of the videos of a data set.

    Attributes:
        ranked: results with each track under each of its likely classes.
        tracked: results with each track under its best class.
    """

    ranked: Sequence[Prediction]
    tracked: Sequence[Prediction]


def find_tracks(
    backend: Backend,
    stream: StreamConfig,
    dataset: VisDataset,
    frames: Path,
    results: Path,
    *,
    identity: Mapping[str, Any],
    shard: Shard | None = None,
    barrier: Callable[[], object] = lambda: None,
    progress: Callable[[str, int, int], object] | None = None,
) -> TrackResults | None:
    """Run all videos.

    Args:
        backend: backend of the network.
        stream: thresholds and association.
        dataset: data set with the videos.
        frames: folder of the frames.
        results: prefix of the two results files.
        identity: everything that the results depend on; see `InferenceTask`.
        shard: share of this process (default: all videos).
        barrier: function that waits for all processes (default: none).
        progress: called at the start and after each frame with `ranked` or `tracked`, the number of finished frames,
            and that of all frames (default: a progress bar on a terminal).

    Returns:
        The results in the first process; None in the others.
    """
    shard = shard or Shard()
    predictions: list[Sequence[Prediction]] = []
    for name, multi_class in (("ranked", True), ("tracked", False)):
        config = replace(stream, video=replace(stream.video, multi_class=multi_class))
        path = results.with_name(f"{results.name}-{name}.results")
        update = partial(progress, name) if progress is not None else None
        task = InferenceTask(dataset, frames, path, identity, shard, update)
        run_videos(task, partial(Pipeline, backend, config))
        barrier()
        predictions.append(read_predictions(path, dataset) if shard.rank == 0 else ())
    return TrackResults(*predictions) if shard.rank == 0 else None


def association_scores(dataset: VisDataset, results: TrackResults) -> dict[str, float]:
    """Return AP and AR of OVIS, class means of HOTA, AssA, DetA, IDF1 and IDSW (TrackEval), and `kept`.

    `kept` is the share of absences after which an instance is re-identified; -1 without absences.
    """
    returns = score_reappearance(dataset, results.tracked)
    scores = dict(score(dataset, results.ranked, "ovis").summary)
    scores |= score_tracking(dataset, results.tracked)[CLASS_MEAN]
    return scores | {"kept": returns.reidentified / returns.absences if returns.absences else -1.0}
