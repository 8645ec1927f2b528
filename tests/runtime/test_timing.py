"""Interleaved calls, percentiles, and ratios of pairs."""

import time

import numpy as np
import pytest

from idol_runtime.timing import interleaved, paired_ratio, summarise


def test_every_way_has_its_turn_in_every_round(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    calls: list[str] = []

    def takes(name: str, *seconds: float) -> object:
        left = iter(seconds)

        def run() -> None:
            calls.append(name)
            clock[0] += next(left)

        return run

    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])
    found = interleaved([takes("a", 9, 1, 2, 3), takes("b", 9, 4, 5, 6)], rounds=3)  # type: ignore[list-item]
    assert calls == list("abababab")
    np.testing.assert_allclose(found, [[1000, 4000], [2000, 5000], [3000, 6000]])


def test_percentiles() -> None:
    found = summarise([float(i) for i in range(101)])
    assert found == {"mean": 50, "min": 0, "p50": 50, "p90": 90, "p95": 95, "p99": 99}


def test_what_slows_both_changes_no_ratio() -> None:
    slowed = [1.0, 1.0, 7.0, 3.0, 1.0]
    ratio = paired_ratio([30 * s for s in slowed], [10 * s for s in slowed])
    assert ratio == {"median": 3, "p10": 3, "p90": 3}


def test_the_spread_is_of_the_pairs() -> None:
    ratio = paired_ratio([float(i) for i in range(1, 12)], [1.0] * 11)
    assert (ratio["median"], ratio["p10"], ratio["p90"]) == (6, 2, 10)


def test_pairs_have_the_same_length() -> None:
    with pytest.raises(ValueError, match="broadcast"):
        paired_ratio([1.0, 2.0], [1.0, 2.0, 3.0])
