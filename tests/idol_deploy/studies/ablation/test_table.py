"""The table of an ablation."""

from __future__ import annotations

import numpy as np

from idol_deploy.studies.ablation.rows import ROWS
from idol_deploy.studies.ablation.table import COLUMNS, markdown, summarise


def _cells(seeds: dict[str, list[int]]) -> dict[str, dict[int, dict[str, float]]]:
    rng = np.random.default_rng(0)
    return {row: {seed: {c: float(rng.uniform()) for c in COLUMNS} for seed in s} for row, s in seeds.items()}


def test_mean_spread_and_steps() -> None:
    cells = _cells({row.name: [0, 1, 2] for row in ROWS})
    summary = summarise(cells)
    values = np.array([[[cells[row.name][seed][c] for c in COLUMNS] for seed in range(3)] for row in ROWS])
    steps = np.diff(values, axis=0)
    for k, row in enumerate(ROWS):
        entry = summary[row.name]
        np.testing.assert_allclose(list(entry["mean"].values()), values[k].mean(0))
        np.testing.assert_allclose(list(entry["spread"].values()), values[k].std(0, ddof=1))
        if k:
            np.testing.assert_allclose(list(entry["step"]["mean"].values()), steps[k - 1].mean(0))
            np.testing.assert_allclose(list(entry["step"]["spread"].values()), steps[k - 1].std(0, ddof=1))
    assert "step" not in summary[ROWS[0].name]


def test_an_unfinished_table_compares_shared_seeds_alone() -> None:
    cells = _cells({"contrast": [0, 1], "temporal": [1]})
    summary = summarise(cells)
    assert summary["temporal"]["spread"]["AP"] is None
    step = cells["temporal"][1]["AP"] - cells["contrast"][1]["AP"]
    assert summary["temporal"]["step"]["mean"]["AP"] == step
    assert summarise(_cells({"contrast": [0], "temporal": [1]}))["temporal"]["step"] is None


def test_markdown() -> None:
    cells = {
        "transport": {s: dict.fromkeys(COLUMNS, 0.25 + s / 100) for s in (0, 2)},
        "temporal": {s: dict.fromkeys(COLUMNS, 0.27) for s in (0, 2)},
    }
    lines = markdown(summarise(cells)).splitlines()
    assert lines[2].startswith("| + optimal transport | 26.0 ± 1.4 | ")
    assert lines[3].startswith("| + temporal | 27.0 ± 0.0 | ")
    assert lines[7].startswith("| + temporal | +1.0 ± 1.4 | ")
    assert len({line.count("|") for line in lines if line}) == 1
