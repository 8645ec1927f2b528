"""Average precision and recall of video instance segmentation by the rules of YouTube-VIS and OVIS.

Scores are equal to those of youtubevos/cocoapi (`ytvoseval`) and qjy981010/cocoapi (`oviseval`).

Letters: A ranges of area or occlusion, the first without limits; T IoU thresholds; R recall thresholds; K classes;
M limits on the number of results per video and class; D results, best score first, and G annotated instances of one
video and class.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from idol_deploy.data.ytvis import Track, VisDataset
from idol_deploy.evaluate.predictions import Prediction, by_cell, group_by
from idol_deploy.evaluate.track_iou import track_ious
from idol_runtime.config import Category
from idol_runtime.errors import DataError

__all__ = [
    "IOU_THRESHOLDS",
    "LIMITS",
    "RANGES",
    "AveragePrecision",
    "Metric",
    "Range",
    "match",
    "metric_of",
    "require_annotations",
    "score",
]

Metric = Literal["ytvis", "ovis"]

IOU_THRESHOLDS: NDArray[np.float64] = np.linspace(0.5, 0.95, 10)
LIMITS = (1, 10, 100)
_RECALLS = np.linspace(0.0, 1.0, 101)


class Range(NamedTuple):
    """A range of instances; bounds are inclusive.

    Attributes:
        suffix: suffix of its names in the summary.
        area: lowest and highest mean area in pixels (default: no limit).
        occlusion: lowest and highest hidden share (default: no limit).
    """

    suffix: str
    area: tuple[float, float] = (0.0, 1e10)
    occlusion: tuple[float, float] = (0.0, 1.0)


_AREAS = (
    Range(""),
    Range("s", area=(0.0, 128.0**2)),
    Range("m", area=(128.0**2, 256.0**2)),
    Range("l", area=(256.0**2, 1e10)),
)
_OCCLUSIONS = (
    Range("_occ_light", occlusion=(0.0, 0.25)),
    Range("_occ_medium", occlusion=(0.25, 0.5)),
    Range("_occ_heavy", occlusion=(0.5, 1.0)),
)
RANGES: dict[Metric, tuple[Range, ...]] = {"ytvis": _AREAS, "ovis": _AREAS + _OCCLUSIONS}


@dataclass(frozen=True, eq=False)
class AveragePrecision:
    """Precision and recall in every setting; -1 for a class or range without instances.

    Attributes:
        metric: rules of the scores.
        categories: K categories, by id.
        precision: [T, R, K, A] precision at each recall, with the highest limit.
        recall: [T, K, A, M] highest recall.
        overlaps: [D, G] IoU of each (video, category); empty unless requested.
    """

    metric: Metric
    categories: tuple[Category, ...]
    precision: NDArray[np.float64]
    recall: NDArray[np.float64]
    overlaps: dict[tuple[int, int], NDArray[np.float64]] = field(default_factory=dict)

    @property
    def summary(self) -> dict[str, float]:
        """Reported scores under the names of the official evaluators."""
        ranges = RANGES[self.metric]
        names = {
            "AP": _mean(self.precision[..., 0]),
            "AP50": _mean(self.precision[0, ..., 0]),
            "AP75": _mean(self.precision[5, ..., 0]),
        }
        names |= {f"AP{r.suffix}": _mean(self.precision[..., a]) for a, r in enumerate(ranges) if a}
        names |= {f"AR{limit}": _mean(self.recall[..., 0, m]) for m, limit in enumerate(LIMITS)}
        return names | {f"AR{r.suffix}": _mean(self.recall[..., a, -1]) for a, r in enumerate(ranges) if a}

    def of_category(self, k: int) -> dict[str, float | list[float]]:
        """Return AP, AP50, AP75, AP per IoU threshold, AR1, AR10 and AR100 of class k, over all areas."""
        precision = self.precision[:, :, k, 0]
        steps = [_mean(row) for row in precision]
        recalls = {f"AR{limit}": _mean(self.recall[:, k, 0, m]) for m, limit in enumerate(LIMITS)}
        return {"AP": _mean(precision), "AP50": steps[0], "AP75": steps[5], "AP_per_iou": steps, **recalls}


def metric_of(dataset: VisDataset) -> Metric:
    """Return the rules for a data set: `ovis` if every instance has occlusion, else `ytvis`."""
    tracks = [track for video in dataset.videos for track in dataset.tracks(video.id)]
    return "ovis" if tracks and all(track.occlusion is not None for track in tracks) else "ytvis"


def require_annotations(dataset: VisDataset) -> None:
    """Check that a data set has annotations.

    Raises:
        DataError: it has none, such as the public validation and test sets.
    """
    if not dataset.annotated:
        raise DataError(
            f"{dataset.path} has no annotations to score against; give a file with annotations, or send the results to "
            "the evaluation server"
        )


def score(
    dataset: VisDataset,
    predictions: Sequence[Prediction],
    metric: Metric = "ytvis",
    *,
    keep_overlaps: bool = False,
) -> AveragePrecision:
    """Score results against annotations.

    Args:
        dataset: data set with annotations.
        predictions: results in the order of their file.
        metric: rules of the scores; `ovis` adds ranges of occlusion (default: `ytvis`).
        keep_overlaps: return the IoU matrices as well (default: False).

    Raises:
        DataError: the data set has no annotations, or no occlusion for `ovis`.
        MissingDependencyError: pycocotools is not installed.
    """
    require_annotations(dataset)
    ranges = RANGES[metric]
    categories = tuple(sorted(dataset.categories, key=lambda category: category.dataset_id))
    videos = sorted(video.id for video in dataset.videos)
    results = by_cell(predictions)
    tracks = (track for video_id in videos for track in dataset.tracks(video_id))
    truth = group_by(tracks, lambda track: (track.video_id, track.category_id))
    T, R, K, A = len(IOU_THRESHOLDS), len(_RECALLS), len(categories), len(ranges)
    scores = AveragePrecision(
        metric,
        categories,
        precision=np.full((T, R, K, A), -1.0),
        recall=np.full((T, K, A, len(LIMITS)), -1.0),
    )
    overlaps = scores.overlaps if keep_overlaps else None
    for k, category in enumerate(categories):
        keys = [(video_id, category.dataset_id) for video_id in videos]
        cells = [
            _match_cell(key, results.get(key, []), truth.get(key, []), ranges, overlaps)
            for key in keys
            if key in results or key in truth
        ]
        if cells:
            _accumulate(cells, scores.precision[:, :, k], scores.recall[:, k])
    return scores


def match(
    overlaps: NDArray[np.float64],  # [D, G]
    thresholds: NDArray[np.float64],  # [T]
    ignored: NDArray[np.bool_],  # [A, G] instances that do not count in a range
    crowd: NDArray[np.bool_],  # [G] instances that match any number of results
    outside: NDArray[np.bool_],  # [A, D] results that are ignored if they have no match
    nameless: NDArray[np.bool_],  # [G] instances with id 0
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Match each result, best score first, with the free instance of highest IoU, at all thresholds at once.

    An ignored instance is matched only if no other is possible; of equal IoUs the last is matched. As in the official
    evaluators, where the id of a match must not be 0, a result matched with instance 0 is a false positive.

    Returns:
        [A, T, D] True for true positives, and [A, T, D] True for false positives; other results are ignored.
    """
    (D, G), A, T = overlaps.shape, len(ignored), len(thresholds)
    matched = np.zeros((A, T, D), np.bool_)
    aside = np.zeros((A, T, D), np.bool_)  # matched with an ignored instance
    bars = np.minimum(thresholds, 1 - 1e-10)
    matched_instances = np.zeros((A, T, G), np.bool_)
    # Ranks instead of IoUs, so that instances that count come before ignored ones at any IoU.
    ranks = np.argsort(np.argsort(overlaps, axis=1, kind="stable"), axis=1)
    preference = np.where(ignored, 0, G)[:, None, :]  # [A, 1, G]
    a, t = np.ogrid[:A, :T]
    reachable = overlaps.max(axis=1, initial=-1.0) >= bars.min(initial=np.inf)
    for d in np.flatnonzero(reachable):
        free = (overlaps[d] >= bars[:, None]) & ~matched_instances
        best = np.where(free, ranks[d] + preference, -1).argmax(axis=2)  # [A, T]
        has_match = free[a, t, best]
        matched[:, :, d] = has_match & ~nameless[best]
        aside[:, :, d] = has_match & ignored[a, best]
        matched_instances[a, t, best] |= has_match & ~crowd[best]
    aside |= ~matched & outside[:, None, :]
    return matched & ~aside, ~matched & ~aside


class _Cell(NamedTuple):
    """Matched results of one video and class, at most the highest limit, best first."""

    scores: NDArray[np.float64]  # [D]
    hit: NDArray[np.bool_]  # [A, T, D]
    miss: NDArray[np.bool_]  # [A, T, D]
    instances: NDArray[np.int64]  # [A] number of instances that count


def _match_cell(
    key: tuple[int, int],
    results: Sequence[Prediction],
    truth: Sequence[Track],
    ranges: Sequence[Range],
    matrices: dict[tuple[int, int], NDArray[np.float64]] | None,  # output
) -> _Cell:
    results = results[: LIMITS[-1]]
    overlaps = track_ious([result.masks for result in results], [track.masks for track in truth])
    if matrices is not None:
        matrices[key] = overlaps
    crowd = np.array([track.crowd for track in truth], np.bool_)
    ignored = crowd | _out_of(np.array([track.area for track in truth]), [r.area for r in ranges])
    if any(r.occlusion != (0.0, 1.0) for r in ranges):
        hidden = np.array([_hidden(track) for track in truth])
        ignored |= _out_of(hidden, [r.occlusion for r in ranges])
    # Results are never ignored by occlusion, which is unknown for them.
    outside = _out_of(np.array([result.area for result in results]), [r.area for r in ranges])
    nameless = np.array([track.id == 0 for track in truth], np.bool_)
    hit, miss = match(overlaps, IOU_THRESHOLDS, ignored, crowd, outside, nameless)
    return _Cell(np.array([result.score for result in results]), hit, miss, (~ignored).sum(axis=1))


def _out_of(values: NDArray[np.float64], bounds: Sequence[tuple[float, float]]) -> NDArray[np.bool_]:
    """Return [A, n] True for values [n] outside the bounds [A]."""
    low, high = np.array(bounds).T[:, :, None]
    out: NDArray[np.bool_] = (values < low) | (values > high)
    return out


def _hidden(track: Track) -> float:
    """Return the mean over the more hidden half of the frames; 0 for an instance that is never visible."""
    if track.occlusion is None:
        raise DataError(f"annotation {track.id} has no occlusion for --metric ovis; use --metric ytvis")
    shares = sorted(share for share in track.occlusion if share is not None)
    half = shares[-math.ceil(len(shares) / 2) :]
    return sum(half) / len(half) if half else 0.0


def _accumulate(
    cells: Sequence[_Cell],
    precision: NDArray[np.float64],  # [T, R, A] output
    recall: NDArray[np.float64],  # [T, A, M] output
) -> None:
    """Write the curves of one class over all videos."""
    scores = np.concatenate([cell.scores for cell in cells])
    place = np.concatenate([np.arange(len(cell.scores)) for cell in cells])
    hit = np.concatenate([cell.hit for cell in cells], axis=2)
    miss = np.concatenate([cell.miss for cell in cells], axis=2)
    order = np.argsort(-scores, kind="stable")
    instances = np.sum([cell.instances for cell in cells], axis=0)
    for a in np.flatnonzero(instances):
        for m, limit in enumerate(LIMITS):
            recall[:, a, m] = hit[a][:, place < limit].sum(axis=1) / instances[a]
        precision[:, :, a] = _curves(hit[a][:, order], miss[a][:, order], int(instances[a]))


def _curves(
    hit: NDArray[np.bool_],  # [T, N], by score
    miss: NDArray[np.bool_],  # [T, N]
    instances: int,
) -> NDArray[np.float64]:  # [T, R]
    """Return the precision at each recall: the highest at this recall or above, 0 beyond the last."""
    true, false = np.cumsum(hit, axis=1, dtype=np.float64), np.cumsum(miss, axis=1, dtype=np.float64)
    ratio = true / (false + true + np.spacing(1))
    ratio = np.maximum.accumulate(ratio[:, ::-1], axis=1)[:, ::-1]
    curves = np.zeros((len(hit), len(_RECALLS)))
    for t, row in enumerate(true):
        at = np.searchsorted(row / instances, _RECALLS, side="left")
        valid = at < len(row)
        curves[t, valid] = ratio[t, at[valid]]
    return curves


def _mean(values: NDArray[np.float64]) -> float:
    defined = values[values > -1]
    return float(defined.mean()) if defined.size else -1.0
