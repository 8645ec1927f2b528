"""Tracking scores: HOTA, AssA, DetA, IDF1 and identity switches, computed by TrackEval.

Results and annotations are passed in memory. As in TrackEval's YouTube-VIS data set, every result counts at any score,
and a class without instances and results scores 0 and is part of the mean. Unlike there, an empty mask is no detection:
a results file has one for each frame without the track.
"""

import contextlib
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from idol_deploy.data.masks import Masks
from idol_deploy.data.ytvis import Track, VisDataset
from idol_deploy.evaluate.average_precision import require_annotations
from idol_deploy.evaluate.predictions import Prediction, group_by
from idol_deploy.evaluate.track_iou import frame_ious
from idol_runtime.optional import import_optional

__all__ = ["CLASS_MEAN", "COUNTS", "DETECTION_MEAN", "load_trackeval", "score_tracking"]

CLASS_MEAN = "class_mean"
DETECTION_MEAN = "detection_mean"
COUNTS = frozenset(
    {"IDSW"}
)  # scores that are numbers, with a sum instead of a mean; the others are shares of 1
_FIELDS = {"HOTA": ("HOTA", "AssA", "DetA"), "Identity": ("IDF1",), "CLEAR": ("IDSW",)}


def score_tracking(dataset: VisDataset, predictions: Sequence[Prediction]) -> dict[str, dict[str, float]]:
    """Return HOTA, AssA, DetA (means over thresholds), IDF1 and the number of identity switches IDSW.

    An identity switch: an instance is matched, at an IoU of 0.5 or more, by another track than at its last match
    (Bernardin and Stiefelhagen 2008).

    Args:
        dataset: data set with annotations.
        predictions: results of its videos.

    Returns:
        The five scores by category id as text, then for `class_mean` and `detection_mean`, which weights classes by
        their detections; `IDSW` is a sum in both.

    Raises:
        DataError: the data set has no annotations.
        MissingDependencyError: TrackEval or pycocotools is not installed.
    """
    require_annotations(dataset)
    kinds, config = load_trackeval().metrics, {"THRESHOLD": 0.5, "PRINT_CONFIG": False}
    metrics = {"HOTA": kinds.HOTA(), "Identity": kinds.Identity(config), "CLEAR": kinds.CLEAR(config)}
    results = group_by(predictions, lambda prediction: (prediction.video_id, prediction.category_id))
    by_class: dict[str, dict[str, Any]] = {}
    for category in dataset.categories:
        parts: dict[str, dict[int, Any]] = {name: {} for name in metrics}
        for video in dataset.videos:
            truth = [track for track in dataset.tracks(video.id) if track.category_id == category.dataset_id]
            data = _sequence(truth, results.get((video.id, category.dataset_id), []), len(video))
            for name, metric in metrics.items():
                parts[name][video.id] = metric.eval_sequence(data)
        by_class[str(category.dataset_id)] = {
            name: metric.combine_sequences(parts[name]) for name, metric in metrics.items()
        }
    scores = {key: _numbers(values) for key, values in by_class.items()}
    for mean, combine in ((CLASS_MEAN, "class"), (DETECTION_MEAN, "det")):
        scores[mean] = _numbers(
            {
                name: getattr(metric, f"combine_classes_{combine}_averaged")(
                    {key: values[name] for key, values in by_class.items()}
                )
                for name, metric in metrics.items()
            }
        )
    return scores


def load_trackeval() -> Any:
    """Import TrackEval without its console output.

    Raises:
        MissingDependencyError: it is not installed.
    """
    with contextlib.redirect_stdout(io.StringIO()):
        return import_optional("trackeval", "trackeval", "evaluate", "HOTA, IDF1 and identity switches")


def _numbers(results: Mapping[str, Any]) -> dict[str, float]:
    return {
        field: float(np.mean(results[name][field])) for name, fields in _FIELDS.items() for field in fields
    }


def _sequence(truth: Sequence[Track], results: Sequence[Prediction], frames: int) -> dict[str, Any]:
    """Return one video and class in the format of TrackEval: ids from 0, and similarities [G, D] of each frame."""
    instances = [track.masks for track in truth if track.masks.frames]
    tracks = [result.masks for result in results if result.masks.frames]
    ious = {frame: iou.T for frame, _, _, iou in frame_ious(tracks, instances)}
    instance_ids, track_ids = _visible(instances, frames), _visible(tracks, frames)
    return {
        "num_timesteps": frames,
        "num_gt_ids": len(instances),
        "num_tracker_ids": len(tracks),
        "num_gt_dets": sum(map(len, instance_ids)),
        "num_tracker_dets": sum(map(len, track_ids)),
        "gt_ids": instance_ids,
        "tracker_ids": track_ids,
        "similarity_scores": [
            ious.get(t, np.zeros((len(instance_ids[t]), len(track_ids[t])))) for t in range(frames)
        ],
    }


def _visible(tracks: Sequence[Masks], frames: int) -> list[NDArray[np.intp]]:
    """Return the indices of the visible tracks of each frame."""
    return [np.array([i for i, masks in enumerate(tracks) if masks.areas[t]], np.intp) for t in range(frames)]
