"""Scores for people and for programs."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np

from idol_deploy.evaluate.average_precision import IOU_THRESHOLDS, LIMITS, RANGES, Range, Scores
from idol_deploy.evaluate.reappearance import LEAST_AWAY, Returns
from idol_deploy.evaluate.tracking import CLASS_MEAN, COUNTS, DETECTION_MEAN

__all__ = ["document", "table"]

Tracking = Mapping[str, Mapping[str, float]]

_AREA_NAMES = ("all", "small", "medium", "large")
_OCCLUSION_NAMES = ("all", "light", "medium", "heavy")


def document(
    scores: Scores,
    tracking: Tracking | None = None,
    returns: Returns | None = None,
    model: Mapping[str, str | None] | None = None,
) -> dict[str, Any]:
    """All scores as JSON: `summary`, `params`, `per_category` by id; if there, `model`, `tracking`, `returns`, `ious`.

    Keys are those of the official evaluators' variables. -1 stands where there is no instance.
    """
    ranges = RANGES[scores.metric]
    params: dict[str, Any] = {
        "iouThrs": IOU_THRESHOLDS.tolist(),
        "maxDets": list(LIMITS),
        "areaRng": [list(r.area) for r in ranges if r.occlusion == Range("").occlusion],
        "areaRngLbl": list(_AREA_NAMES),
    }
    if scores.metric == "ovis":
        everything, *_ = ranges
        params["occRng"] = [list(r.occlusion) for r in (everything, *ranges[len(_AREA_NAMES) :])]
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
        result["returns"] = {"least_away": LEAST_AWAY, **asdict(returns)}
    if scores.overlaps:
        result["ious"] = {
            f"{video}_{category}": m.tolist() for (video, category), m in scores.overlaps.items()
        }
    return result


def table(scores: Scores, tracking: Tracking | None = None, returns: Returns | None = None) -> str:
    """The summary, and one line per class, in percent but for counts; a dash where there is no instance."""
    summary = scores.summary
    names = (
        [name for name in summary if name.startswith("AP")],
        [name for name in summary if name.startswith("AR")],
    )
    lines = [
        line
        for part in names
        for line in (
            _row("", [_short(name) for name in part]),
            _row("all", [summary[name] for name in part]),
            "",
        )
    ]
    columns = ["AP", "AP50", "AP75", "AR1", "AR10"]
    fields = list(tracking[CLASS_MEAN]) if tracking else []
    lines.append(_row("class", [*columns, *fields]))
    for k, category in enumerate(scores.categories):
        values = scores.of_category(k)
        if not np.any(scores.recall[:, k] >= 0):
            continue
        tracked = _tracked(tracking[str(category.dataset_id)]) if tracking else []
        lines.append(_row(category.name, [values[name] for name in columns] + tracked))
    if tracking:
        for name, mean in (("mean of classes", CLASS_MEAN), ("of detections", DETECTION_MEAN)):
            lines.append(_row(name, [""] * len(columns) + _tracked(tracking[mean])))
    if returns:
        lines.append(
            f"{returns.kept} of {returns.absences} times that an instance was away for {LEAST_AWAY} frames or more, it "
            f"came back as whom it left; {returns.seen} times it was found both before and after"
        )
    return "\n".join(lines)


def _tracked(values: Mapping[str, float]) -> list[Any]:
    return [f"{value:.0f}" if name in COUNTS else value for name, value in values.items()]


def _short(name: str) -> str:
    """AP_occ_light is too wide for a column."""
    return name.replace("_occ_", " ")


def _row(title: str, cells: list[Any]) -> str:
    return f"{title[:20]:20}" + "".join(f"{_cell(cell):>10}" for cell in cells)


def _cell(value: Any) -> str:
    if isinstance(value, str):
        return value
    return "-" if value < 0 else f"{100 * value:.2f}"
