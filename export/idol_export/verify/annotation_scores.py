"""Scores of a graph against annotations."""

import tempfile
from dataclasses import dataclass
from pathlib import Path

from idol_deploy.data.ytvis import read_dataset
from idol_deploy.evaluate.association_scores import find_tracks
from idol_deploy.evaluate.average_precision import metric_of, score
from idol_deploy.evaluate.caching import CachingBackend
from idol_deploy.evaluate.tracking import DETECTION_MEAN, score_tracking
from idol_runtime.backends import Backend
from idol_runtime.config import StreamConfig

__all__ = ["Scores", "score_graph"]


@dataclass(frozen=True)
class Scores:
    """Shares of 1: AP of results under each of their likely classes, IDF1 of tracks under their best."""

    ap: float
    idf1: float


def score_graph(annotations: Path, frames: Path, backend: Backend, stream: StreamConfig) -> Scores:
    """Run a graph over a data set, and score it.

    Args:
        annotations: YouTube-VIS or OVIS JSON.
        frames: the folder that its file names are below.
        backend: runs the graph.
        stream: thresholds and association.

    Raises:
        DataError: annotations that are broken, or frames of another size than they say.
        SourceError: a frame that is missing or broken.
        MissingDependencyError: pycocotools or TrackEval is not installed.
    """
    dataset = read_dataset(annotations)
    with tempfile.TemporaryDirectory() as folder:
        found = find_tracks(
            CachingBackend(backend),
            stream,
            dataset,
            frames,
            Path(folder) / "graph",
            identity={"graph": backend.name},
        )
    assert found is not None, "one process runs all videos"
    ap = score(dataset, found.ranked, metric_of(dataset)).summary["AP"]
    return Scores(ap, score_tracking(dataset, found.tracked)[DETECTION_MEAN]["IDF1"])
