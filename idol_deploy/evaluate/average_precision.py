"""Average precision and recall of video instance segmentation, as the evaluators of YouTube-VIS and OVIS compute them.

Rules: youtubevos/cocoapi (`ytvoseval`) and qjy981010/cocoapi (`oviseval`). Results are equal to theirs.

A: ranges of area or occlusion, the first being all; T: overlap thresholds; R: recall thresholds; K: classes;
M: limits on the results of a video and class; D, G: results and instances of one video and class.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from idol_deploy.data.ytvis import Track, VisDataset
from idol_deploy.evaluate.matching import match
from idol_deploy.evaluate.overlap import track_overlaps
from idol_deploy.evaluate.predictions import Prediction, by_cell
from idol_runtime.config import Category
from idol_runtime.errors import DataError

__all__ = ["IOU_THRESHOLDS", "LIMITS", "RANGES", "Metric", "Range", "Scores", "metric_of", "score"]

Metric = Literal["ytvis", "ovis"]

IOU_THRESHOLDS: NDArray[np.float64] = np.linspace(0.5, 0.95, 10)
LIMITS = (1, 10, 100)
_RECALLS = np.linspace(0.0, 1.0, 101)
_EVERY_AREA = 0.0, 1e10


class Range(NamedTuple):
    """Which instances count: bounds are part of it.

    Attributes:
        suffix: of its names in the summary.
        area: of the mean area, in pixels.
        occlusion: of the share that is hidden.
    """

    suffix: str
    area: tuple[float, float] = _EVERY_AREA
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
class Scores:
    """Precision and recall in every setting; -1 where there is no instance.

    Attributes:
        metric: whose rules.
        categories: K classes, by id.
        precision: [T, R, K, A] with the largest limit.
        recall: [T, K, A, M].
        overlaps: [D, G] of each (video, category) that was asked for, results by score.
    """

    metric: Metric
    categories: tuple[Category, ...]
    precision: NDArray[np.float64]
    recall: NDArray[np.float64]
    overlaps: dict[tuple[int, int], NDArray[np.float64]] = field(default_factory=dict)

    @property
    def summary(self) -> dict[str, float]:
        """The numbers that are reported, under their usual names."""
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
        """AP, AP50, AP75, AP at each threshold, AR1, AR10 and AR100 of one class, over all areas."""
        precision = self.precision[:, :, k, 0]
        steps = [_mean(row) for row in precision]
        recalls = {f"AR{limit}": _mean(self.recall[:, k, 0, m]) for m, limit in enumerate(LIMITS)}
        return {"AP": _mean(precision), "AP50": steps[0], "AP75": steps[5], "AP_per_iou": steps, **recalls}


def metric_of(dataset: VisDataset) -> Metric:
    """Whose rules a data set is made for: `ovis` where every instance says how far it is hidden, else `ytvis`."""
    tracks = [track for video in dataset.videos for track in dataset.tracks(video.id)]
    return "ovis" if tracks and all(track.occlusion is not None for track in tracks) else "ytvis"


def score(
    dataset: VisDataset,
    predictions: Sequence[Prediction],
    metric: Metric = "ytvis",
    *,
    keep_overlaps: bool = False,
) -> Scores:
    """Score results against annotations.

    Args:
        dataset: with annotations.
        predictions: in the order of their file.
        metric: `ovis` adds ranges of occlusion.
        keep_overlaps: keep the overlap matrices.

    Raises:
        DataError: no annotations, or none of occlusion for `ovis`.
        MissingDependencyError: pycocotools is not installed.
    """
    if not dataset.annotated:
        raise DataError(
            f"{dataset.path} has no annotations to score against; send the results to the server instead"
        )
    ranges = RANGES[metric]
    categories = tuple(sorted(dataset.categories, key=lambda category: category.dataset_id))
    videos = sorted(video.id for video in dataset.videos)
    found = by_cell(predictions)
    truth: dict[tuple[int, int], list[Track]] = {}
    for video_id in videos:
        for track in dataset.tracks(video_id):
            truth.setdefault((video_id, track.category_id), []).append(track)
    T, R, K, A = len(IOU_THRESHOLDS), len(_RECALLS), len(categories), len(ranges)
    scores = Scores(
        metric,
        categories,
        precision=np.full((T, R, K, A), -1.0),
        recall=np.full((T, K, A, len(LIMITS)), -1.0),
    )
    kept = scores.overlaps if keep_overlaps else None
    for k, category in enumerate(categories):
        keys = [(video_id, category.dataset_id) for video_id in videos]
        cells = [
            _match_cell(key, found.get(key, []), truth.get(key, []), ranges, kept)
            for key in keys
            if key in found or key in truth
        ]
        if cells:
            _accumulate(cells, scores.precision[:, :, k], scores.recall[:, k])
    return scores


class _Cell(NamedTuple):
    """The results of one video and class, at most the largest limit, best first."""

    scores: NDArray[np.float64]  # [D]
    hit: NDArray[np.bool_]  # [A, T, D]
    miss: NDArray[np.bool_]  # [A, T, D]
    instances: NDArray[np.int64]  # [A] how many count


def _match_cell(
    key: tuple[int, int],
    found: Sequence[Prediction],
    truth: Sequence[Track],
    ranges: Sequence[Range],
    kept: dict[tuple[int, int], NDArray[np.float64]] | None,
) -> _Cell:
    found = found[: LIMITS[-1]]
    overlaps = track_overlaps([result.masks for result in found], [track.masks for track in truth])
    if kept is not None:
        kept[key] = overlaps
    crowd = np.array([track.crowd for track in truth], np.bool_)
    counts = crowd | _out_of(np.array([track.area for track in truth]), [r.area for r in ranges])
    if any(r.occlusion != (0.0, 1.0) for r in ranges):
        hidden = np.array([_hidden(track) for track in truth])
        counts |= _out_of(hidden, [r.occlusion for r in ranges])
    # Results are never ignored for their occlusion: nobody knows it.
    outside = _out_of(np.array([result.area for result in found]), [r.area for r in ranges])
    nameless = np.array([track.id == 0 for track in truth], np.bool_)
    matching = match(overlaps, IOU_THRESHOLDS, counts, crowd, outside, nameless)
    return _Cell(
        np.array([result.score for result in found]), matching.hit, matching.miss, (~counts).sum(axis=1)
    )


def _out_of(values: NDArray[np.float64], bounds: Sequence[tuple[float, float]]) -> NDArray[np.bool_]:
    """[A, n], for values [n] and bounds [A]."""
    low, high = np.array(bounds).T[:, :, None]
    out: NDArray[np.bool_] = (values < low) | (values > high)
    return out


def _hidden(track: Track) -> float:
    """Mean of the more hidden half of the frames; an instance that is never seen is not hidden."""
    if track.occlusion is None:
        raise DataError(
            f"annotation {track.id} has no occlusion, which --metric ovis needs; use --metric ytvis"
        )
    shares = sorted(share for share in track.occlusion if share is not None)
    half = shares[-math.ceil(len(shares) / 2) :]
    return sum(half) / len(half) if half else 0.0


def _accumulate(
    cells: Sequence[_Cell],
    precision: NDArray[np.float64],  # [T, R, A], written to
    recall: NDArray[np.float64],  # [T, A, M], written to
) -> None:
    """The curves of one class over all videos."""
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
    """Precision at each recall: the best that any larger recall has, 0 beyond the last."""
    true, false = np.cumsum(hit, axis=1, dtype=np.float64), np.cumsum(miss, axis=1, dtype=np.float64)
    ratio = true / (false + true + np.spacing(1))
    ratio = np.maximum.accumulate(ratio[:, ::-1], axis=1)[:, ::-1]
    curves = np.zeros((len(hit), len(_RECALLS)))
    for t, row in enumerate(true):
        at = np.searchsorted(row / instances, _RECALLS, side="left")
        reached = at < len(row)
        curves[t, reached] = ratio[t, at[reached]]
    return curves


def _mean(values: NDArray[np.float64]) -> float:
    defined = values[values > -1]
    return float(defined.mean()) if defined.size else -1.0
