"""The table of an ablation: mean and spread over seeds, and the difference of each row to the row before."""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from idol_deploy.studies.ablation.rows import ROWS, AblationRow

__all__ = ["COLUMNS", "head", "line", "markdown", "moments", "summarise"]

# Titles of the scores in the table. `kept`: share of absences after which an instance is re-identified.
COLUMNS = {
    "AP": "AP",
    "AP_occ_medium": "AP medium",
    "AP_occ_heavy": "AP heavy",
    "AR10": "AR10",
    "AR_occ_medium": "AR medium",
    "AR_occ_heavy": "AR heavy",
    "AssA": "AssA",
    "IDF1": "IDF1",
    "kept": "re-identified",
}

# Scores of each cell, by row and seed.
Cells = Mapping[str, Mapping[int, Mapping[str, float]]]


def summarise(cells: Cells) -> dict[str, Any]:
    """Return per row `mean` and `spread` of every column, and `step`, the same of the difference to the row before.

    Differences are taken per seed: rows of one seed share videos and in part the network, so that their
    differences vary less than the rows.
    """
    summary: dict[str, Any] = {}
    before: AblationRow | None = None
    for row in (row for row in ROWS if row.name in cells):
        scores = cells[row.name]
        entry: dict[str, Any] = {"title": row.title, "seeds": sorted(scores)}
        entry |= moments({c: [scores[seed][c] for seed in sorted(scores)] for c in COLUMNS})
        if before is not None:
            former = cells[before.name]
            shared = sorted(scores.keys() & former.keys())
            steps = {c: [scores[seed][c] - former[seed][c] for seed in shared] for c in COLUMNS}
            entry["step"] = moments(steps) if shared else None
        summary[row.name] = entry
        before = row
    return summary


def markdown(summary: Mapping[str, Any]) -> str:
    """Return the table in percent and below it the differences between rows, as Markdown."""
    lines = [*head("")]
    lines += [line(entry["title"], entry) for entry in summary.values()]
    steps = [(entry["title"], entry["step"]) for entry in summary.values() if entry.get("step")]
    if steps:
        lines += ["", *head("against the row before")]
        lines += [line(title, step, sign="+") for title, step in steps]
    return "\n".join(lines) + "\n"


def moments(values: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    """Return per column the `mean` and the `spread`: the standard deviation (n - 1), None for one value."""
    mean = {name: statistics.fmean(numbers) for name, numbers in values.items()}
    spread = {name: statistics.stdev(n) if len(n) > 1 else None for name, n in values.items()}
    return {"mean": mean, "spread": spread}


def head(corner: str, columns: Mapping[str, str] = COLUMNS) -> list[str]:
    """Return the two header lines of a table."""
    return [f"| {corner} | " + " | ".join(columns.values()) + " |", "| --- |" + " ---: |" * len(columns)]


def line(title: str, entry: Mapping[str, Any], columns: Iterable[str] = COLUMNS, *, sign: str = "") -> str:
    """Return a row of a table in percent.

    Args:
        title: first cell.
        entry: `mean` and `spread` by column, from `moments`.
        columns: columns in order (default: all).
        sign: sign option of the number format (default: none).
    """
    cells = []
    for name in columns:
        spread = entry["spread"][name]
        mean = entry["mean"][name]
        text = format(100 * mean, f"{sign}.1f") if sign or mean >= 0 else "-"  # -1: no absence
        cells.append(text if spread is None else f"{text} ± {100 * spread:.1f}")
    return f"| {title} | " + " | ".join(cells) + " |"
