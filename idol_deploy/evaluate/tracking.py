"""Scores of tracking rather than of ranking: HOTA, AssA, DetA, IDF1 and identity switches, computed by TrackEval.

Results and annotations are handed over in memory. As in TrackEval's YouTube-VIS data set, every result counts whatever
its score, and a class without instances and results scores 0 and takes part in the mean. Unlike there, an empty mask is
no detection: a results file holds one for each frame in which a track is not seen.
"""

import contextlib
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from idol_deploy.data.masks import Masks
from idol_deploy.data.ytvis import Track, VisDataset
from idol_deploy.evaluate.overlap import frame_overlaps
from idol_deploy.evaluate.predictions import Prediction
from idol_runtime.errors import DataError
from idol_runtime.optional import import_optional

__all__ = ["CLASS_MEAN", "COUNTS", "DETECTION_MEAN", "load_trackeval", "score_tracking"]

CLASS_MEAN = "class_mean"
DETECTION_MEAN = "detection_mean"
COUNTS = frozenset({"IDSW"})  # a number, and its sum beside the means; all else is a share
_FIELDS = {"HOTA": ("HOTA", "AssA", "DetA"), "Identity": ("IDF1",), "CLEAR": ("IDSW",)}


def score_tracking(dataset: VisDataset, predictions: Sequence[Prediction]) -> dict[str, dict[str, float]]:
    """HOTA, AssA, DetA (means over thresholds), IDF1, and the number of identity switches IDSW.

    A switch: an instance is matched, at an overlap of 0.5 or more, by another track than when it last was (Bernardin
    and Stiefelhagen 2008).

    Args:
        dataset: with annotations.
        predictions: of its videos.

    Returns:
        The five by category id, as text, then `class_mean` and `detection_mean`, which weighs classes by their
        detections; `IDSW` is the sum in both.

    Raises:
        DataError: no annotations.
        MissingDependencyError: TrackEval or pycocotools is not installed.
    """
    if not dataset.annotated:
        raise DataError(
            f"{dataset.path} has no annotations to score against; send the results to the server instead"
        )
    metrics = _metrics()
    found: dict[tuple[int, int], list[Prediction]] = {}
    for prediction in predictions:
        found.setdefault((prediction.video_id, prediction.category_id), []).append(prediction)
    by_class: dict[str, dict[str, Any]] = {}
    for category in dataset.categories:
        parts: dict[str, dict[int, Any]] = {name: {} for name in metrics}
        for video in dataset.videos:
            truth = [track for track in dataset.tracks(video.id) if track.category_id == category.dataset_id]
            data = _sequence(truth, found.get((video.id, category.dataset_id), []), len(video))
            for name, metric in metrics.items():
                parts[name][video.id] = metric.eval_sequence(data)
        by_class[str(category.dataset_id)] = {
            name: metric.combine_sequences(parts[name]) for name, metric in metrics.items()
        }
    scores = {name: _numbers(results) for name, results in by_class.items()}
    for mean, combine in ((CLASS_MEAN, "class"), (DETECTION_MEAN, "det")):
        scores[mean] = _numbers(
            {
                name: getattr(metric, f"combine_classes_{combine}_averaged")(
                    {key: results[name] for key, results in by_class.items()}
                )
                for name, metric in metrics.items()
            }
        )
    return scores


def load_trackeval() -> Any:
    """The package, without what it prints.

    Raises:
        MissingDependencyError: it is not installed.
    """
    with contextlib.redirect_stdout(io.StringIO()):
        return import_optional("trackeval", "trackeval", "evaluate", "HOTA, IDF1 and identity switches")


def _metrics() -> dict[str, Any]:
    package = load_trackeval()
    at_half = {"THRESHOLD": 0.5, "PRINT_CONFIG": False}
    return {
        "HOTA": package.metrics.HOTA(),
        "Identity": package.metrics.Identity(at_half),
        "CLEAR": package.metrics.CLEAR(at_half),
    }


def _numbers(results: Mapping[str, Any]) -> dict[str, float]:
    return {
        field: float(np.mean(results[name][field])) for name, fields in _FIELDS.items() for field in fields
    }


def _sequence(truth: Sequence[Track], found: Sequence[Prediction], frames: int) -> dict[str, Any]:
    """One video and class as TrackEval's metrics take it: ids number from 0, similarities are [G, D] of each frame."""
    real = [track.masks for track in truth if track.frames]
    guessed = [result.masks for result in found if result.masks.frames]
    overlaps = {frame: iou.T for frame, _, _, iou in frame_overlaps(guessed, real)}
    real_ids, guessed_ids = _ids(real, frames), _ids(guessed, frames)
    return {
        "num_timesteps": frames,
        "num_gt_ids": len(real),
        "num_tracker_ids": len(guessed),
        "num_gt_dets": sum(map(len, real_ids)),
        "num_tracker_dets": sum(map(len, guessed_ids)),
        "gt_ids": real_ids,
        "tracker_ids": guessed_ids,
        "similarity_scores": [
            overlaps.get(t, np.zeros((len(real_ids[t]), len(guessed_ids[t])))) for t in range(frames)
        ],
    }


def _ids(tracks: Sequence[Masks], frames: int) -> list[NDArray[np.intp]]:
    """Of each frame, which tracks are seen."""
    if not tracks:
        return [np.zeros(0, np.intp)] * frames
    seen = np.stack([masks.areas > 0 for masks in tracks])
    return [np.flatnonzero(column) for column in seen.T]
