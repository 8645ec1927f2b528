"""Scores as a table and as JSON."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from idol_deploy.evaluate.average_precision import IOU_THRESHOLDS, LIMITS, RANGES, AveragePrecision, Range
from idol_deploy.evaluate.reappearance import MIN_ABSENCE, Reappearance
from idol_deploy.evaluate.tracking import CLASS_MEAN, COUNTS, DETECTION_MEAN

__all__ = ["document", "table"]

Tracking = Mapping[str, Mapping[str, float]]

_AREA_NAMES = ("all", "small", "medium", "large")
_OCCLUSION_NAMES = ("all", "light", "medium", "heavy")


def document(
    scores: AveragePrecision,
    tracking: Tracking | None = None,
    returns: Reappearance | None = None,
    model: Mapping[str, str | None] | None = None,
) -> dict[str, Any]:
    """Return all scores as JSON values: `metric`, `summary`, `params` and `per_category` by id.

    `model`, `tracking`, `returns` and `ious` are added if given. Keys are the variable names of the official
    evaluators; -1 means that there is no instance.
    """
    ranges = RANGES[scores.metric]
    params: dict[str, Any] = {
        "iouThrs": IOU_THRESHOLDS.tolist(),
        "maxDets": list(LIMITS),
        "areaRng": [list(r.area) for r in ranges if r.occlusion == Range("").occlusion],
        "areaRngLbl": list(_AREA_NAMES),
    }
    if scores.metric == "ovis":
        params["occRng"] = [list(r.occlusion) for r in (ranges[0], *ranges[len(_AREA_NAMES) :])]
        params["occRngLbl"] = list(_OCCLUSION_NAMES)
    result: dict[str, Any] = {
        "metric": scores.metric,
        "summary": scores.summary,
        "params": params,
        "per_category": {
            str(category.dataset_id): {"name": category.name, **scores.of_category(k)}
            for k, category in enumerate(scores.categories)
        },
    }
    if model:
        result["model"] = dict(model)
    if tracking is not None:
        result["tracking"] = {key: dict(values) for key, values in tracking.items()}
    if returns is not None:
        result["returns"] = {
            "least_away": MIN_ABSENCE,
            "absences": returns.absences,
            "seen": returns.tracked,
            "kept": returns.reidentified,
        }
    if scores.overlaps:
        result["ious"] = {
            f"{video}_{category}": m.tolist() for (video, category), m in scores.overlaps.items()
        }
    return result


def table(
    scores: AveragePrecision, tracking: Tracking | None = None, returns: Reappearance | None = None
) -> str:
    """Return the summary and one line per class, in percent except for counts; a dash means no instance."""
    summary = scores.summary
    lines = []
    for prefix in ("AP", "AR"):
        names = [name for name in summary if name.startswith(prefix)]
        # AP_occ_light is too wide for a column.
        lines.append(_row("", [name.replace("_occ_", " ") for name in names]))
        lines += [_row("all", [summary[name] for name in names]), ""]
    columns = ["AP", "AP50", "AP75", "AR1", "AR10"]
    fields = list(tracking[CLASS_MEAN]) if tracking else []
    lines.append(_row("class", [*columns, *fields]))
    for k, category in enumerate(scores.categories):
        values = scores.of_category(k)
        if not np.any(scores.recall[:, k] >= 0):
            continue
        tracks = _tracking_cells(tracking[str(category.dataset_id)]) if tracking else []
        lines.append(_row(category.name, [values[name] for name in columns] + tracks))
    if tracking:
        for name, mean in (("mean of classes", CLASS_MEAN), ("of detections", DETECTION_MEAN)):
            lines.append(_row(name, [""] * len(columns) + _tracking_cells(tracking[mean])))
    if returns:
        lines.append(
            f"{returns.reidentified} re-identified of {returns.absences} absences of at least {MIN_ABSENCE} frames; "
            f"{returns.tracked} tracked both before and after"
        )
    return "\n".join(lines)


def _tracking_cells(values: Mapping[str, float]) -> list[Any]:
    return [f"{value:.0f}" if name in COUNTS else value for name, value in values.items()]


def _row(title: str, cells: list[Any]) -> str:
    texts = [cell if isinstance(cell, str) else "-" if cell < 0 else f"{100 * cell:.2f}" for cell in cells]
    return f"{title[:20]:20}" + "".join(f"{text:>10}" for text in texts)
