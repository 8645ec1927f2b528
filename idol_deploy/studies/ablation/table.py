"""The table of an ablation: mean and spread over seeds, and what each row adds to the one before it."""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from idol_deploy.studies.ablation.rows import ROWS, Row

__all__ = ["COLUMNS", "head", "line", "markdown", "moments", "summarise"]

# Of a cell's scores, and what a reader sees. `kept`: share of absences after which an instance has its former identity.
COLUMNS = {
    "AP": "AP",
    "AP_occ_medium": "AP medium",
    "AP_occ_heavy": "AP heavy",
    "AR10": "AR10",
    "AR_occ_medium": "AR medium",
    "AR_occ_heavy": "AR heavy",
    "AssA": "AssA",
    "IDF1": "IDF1",
    "kept": "kept",
}

# A cell's scores by row and seed.
Cells = Mapping[str, Mapping[int, Mapping[str, float]]]


def summarise(cells: Cells) -> dict[str, Any]:
    """By row: `mean` and `spread` of every column, and `step`, the same of the difference to the row before.

    The spread is the standard deviation over seeds (n - 1), null of a single one. Differences are taken seed by
    seed: rows of one seed share videos, and where they can their network, so that they vary less than the rows.
    """
    summary: dict[str, Any] = {}
    before: Row | None = None
    for row in (row for row in ROWS if row.name in cells):
        seeds = sorted(cells[row.name])
        entry: dict[str, Any] = {"title": row.title, "seeds": seeds}
        entry |= moments({c: [cells[row.name][seed][c] for seed in seeds] for c in COLUMNS})
        if before is not None:
            shared = [seed for seed in seeds if seed in cells[before.name]]
            steps = {
                c: [cells[row.name][seed][c] - cells[before.name][seed][c] for seed in shared]
                for c in COLUMNS
            }
            entry["step"] = moments(steps) if shared else None
        summary[row.name] = entry
        before = row
    return summary


def markdown(summary: Mapping[str, Any]) -> str:
    """The table in percent, and below it the steps from row to row."""
    lines = [*head("")]
    lines += [line(entry["title"], entry) for entry in summary.values()]
    steps = [(entry["title"], entry["step"]) for entry in summary.values() if entry.get("step")]
    if steps:
        lines += ["", *head("against the row before")]
        lines += [line(title, step, sign="+") for title, step in steps]
    return "\n".join(lines) + "\n"


def moments(values: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    """By column, the `mean` over seeds and the `spread`: the standard deviation (n - 1), null of a single one."""
    mean = {name: statistics.fmean(numbers) for name, numbers in values.items()}
    spread = {name: statistics.stdev(n) if len(n) > 1 else None for name, n in values.items()}
    return {"mean": mean, "spread": spread}


def head(corner: str, columns: Mapping[str, str] = COLUMNS) -> list[str]:
    """The first two lines of a table."""
    return [
        f"| {corner} | " + " | ".join(columns.values()) + " |",
        "| --- |" + " ---: |" * len(columns),
    ]


def line(title: str, entry: Mapping[str, Any], columns: Iterable[str] = COLUMNS, *, sign: str = "") -> str:
    """A row of a table in percent: what `moments` says of these columns, each number with this sign."""
    cells = []
    for name in columns:
        spread = entry["spread"][name]
        mean = entry["mean"][name]
        text = format(100 * mean, f"{sign}.1f") if sign or mean >= 0 else "-"  # nobody was ever away
        cells.append(text if spread is None else f"{text} ± {100 * spread:.1f}")
    return f"| {title} | " + " | ".join(cells) + " |"
