"""Scores of a graph against annotations."""

import tempfile
from pathlib import Path

from idol_deploy.data.ytvis import read_dataset
from idol_deploy.evaluate.association_scores import find_tracks
from idol_deploy.evaluate.average_precision import metric_of, score
from idol_deploy.evaluate.caching import CachingBackend
from idol_deploy.evaluate.tracking import DETECTION_MEAN, score_tracking
from idol_deploy.progress import Announce, silent
from idol_runtime.backends import Backend
from idol_runtime.config import StreamConfig

__all__ = ["score_graph"]


def score_graph(
    annotations: Path,
    frames: Path,
    backend: Backend,
    stream: StreamConfig,
    announce: Announce = silent,
) -> tuple[float, float]:
    """Run a graph on a data set and score its tracks.

    Args:
        annotations: annotation file, YouTube-VIS or OVIS JSON.
        frames: folder of the frames that the annotation file names.
        backend: inference backend of the graph.
        stream: thresholds and association.
        announce: called with each step and its finished frames.

    Returns:
        AP, where a track is listed under each of its likely classes, and IDF1, where it is listed under its most likely
        class; both 0 to 1.

    Raises:
        DataError: the annotations are broken, or a frame has another size than they give.
        SourceError: a frame is missing or broken.
        MissingDependencyError: pycocotools or TrackEval is not installed.
    """
    dataset = read_dataset(annotations)
    with tempfile.TemporaryDirectory() as folder:
        results = find_tracks(
            CachingBackend(backend),
            stream,
            dataset,
            frames,
            Path(folder) / "graph",
            identity={"graph": backend.name},
            progress=lambda kind, done, total: announce(
                f"scoring {backend.name} on {annotations.name}, {kind} results", done, total
            ),
        )
    assert results is not None, "one process runs all videos"
    ap = score(dataset, results.ranked, metric_of(dataset)).summary["AP"]
    return ap, score_tracking(dataset, results.tracked)[DETECTION_MEAN]["IDF1"]
