"""Scores of a graph against annotations, beside those of the graph that it was made of."""

import tempfile
from collections.abc import Callable
from pathlib import Path

from idol_deploy.data.ytvis import read_dataset
from idol_deploy.evaluate.average_precision import metric_of, score
from idol_deploy.evaluate.inference import Work, run_videos
from idol_deploy.evaluate.predictions import read_predictions
from idol_deploy.evaluate.tracking import DETECTION_MEAN, score_tracking
from idol_runtime.certificates import Judged
from idol_runtime.pipeline import Pipeline

__all__ = ["judge"]


def judge(
    annotations: Path,
    frames: Path,
    ours: Callable[[], Pipeline],
    fp32: Callable[[], Pipeline],
    limit: float,
) -> Judged:
    """Run both over a data set, and score them.

    Args:
        annotations: YouTube-VIS or OVIS JSON.
        frames: the folder that its file names are below.
        ours: opens the graph in question.
        fp32: opens the one that it was made of.
        limit: how much AP and IDF1 may fall.

    Raises:
        DataError: annotations that are broken, or frames of another size than they say.
        SourceError: a frame that is missing or broken.
        MissingDependencyError: pycocotools or TrackEval is not installed.
    """
    dataset = read_dataset(annotations)
    scores = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, open_pipeline in (("ours", ours), ("fp32", fp32)):
            results = Path(folder) / f"{name}.json"
            run_videos(Work(dataset, frames, results, {"graph": name}), open_pipeline)
            found = read_predictions(results, dataset)
            ap = score(dataset, found, metric_of(dataset)).summary["AP"]
            scores[name] = ap, score_tracking(dataset, found)[DETECTION_MEAN]["IDF1"]
    (ap, idf1), (ap_fp32, idf1_fp32) = scores["ours"], scores["fp32"]
    return Judged(ap, ap_fp32, idf1, idf1_fp32, limit, annotations.name)
