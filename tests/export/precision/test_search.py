"""The search with a known loss of each group."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import pytest

from idol_deploy.progress import silent
from idol_export.precision.search import search
from idol_runtime.bundle.certificates import IdAgreement, SearchStep

SHARES = {"cheap": 0.5, "fair": 0.3, "dear": 0.15, "ruin": 0.05}
LOSSES = {"cheap": 0.001, "fair": 0.004, "dear": 0.01, "ruin": 0.2}


class _Graphs:
    """Graphs that consist of the names of their int8 groups."""

    shares = SHARES

    def share(self, keep: Collection[str]) -> float:
        return sum(share for group, share in SHARES.items() if group not in keep)

    def probe(self, keep: Collection[str]) -> bytes:
        return ",".join(group for group in SHARES if group not in keep).encode()

    def alone(self, group: str) -> bytes:
        return group.encode()


class _Evaluation:
    """Measurements with known results; a candidate is the graph itself."""

    def __init__(self, limit: float, speeds: Sequence[float] | None, scores: str, unlucky: str) -> None:
        self._limit, self._speeds, self._scores, self._unlucky = limit, speeds, scores, unlucky
        self.asked: list[str] = []

    def candidate(self, probe: bytes) -> bytes:
        return probe

    def error(self, graph: bytes) -> float:
        return sum(LOSSES[group] for group in graph.decode().split(","))

    def agreement(self, graph: bytes) -> IdAgreement:
        self.asked.append(graph.decode())
        lost = 0.5 if graph.decode() == self._unlucky else self.error(graph)
        return IdAgreement(1 - lost, 1000, 300, self._limit, 500, "a")

    def scores_pass(self, graph: bytes) -> bool:
        return self._scores not in graph.decode() if self._scores else True

    def speeds(self, graphs: Sequence[bytes]) -> Sequence[float | None]:
        return [None] * len(graphs) if self._speeds is None else list(self._speeds)[: len(graphs)]


def _run(
    limit: float,
    speeds: Sequence[float] | None = None,
    scores: str = "",
    default: Sequence[str] = tuple(SHARES),
    unlucky: str = "",
) -> tuple[tuple[SearchStep, ...], list[str]]:
    evaluation = _Evaluation(limit, speeds, scores, unlucky)
    steps = search(_Graphs(), default, evaluation, silent)  # type: ignore[arg-type]
    return steps, evaluation.asked


def test_most_multiplications_within_the_limit() -> None:
    tried, asked = _run(0.98)
    assert tried[-1].held
    assert tried[-1].kept == ("ruin",)
    assert tried[-1].integer_share == pytest.approx(0.95)
    assert len(tried) == len(SHARES) + len(asked)
    assert len(asked) <= 3, "bisected"
    assert _run(0.993)[0][-1].kept == ("dear", "ruin")


def test_the_fastest_of_what_holds() -> None:
    """Two groups, tried before three, are faster."""
    tried, asked = _run(0.98, speeds=(1.8, 1.5))
    assert asked[:2] == ["cheap,fair", "cheap,fair,dear"]
    assert (tried[-1].kept, tried[-1].speed) == (("dear", "ruin"), 1.8)


def test_what_is_usual_is_tried_where_the_bisection_ends_below_it() -> None:
    assert _run(0.98, unlucky="cheap,fair")[0][-1].kept == ("fair", "dear", "ruin")
    tried, asked = _run(0.98, unlucky="cheap,fair", default=("gone", "ruin"))
    assert (tried[-1].kept, tried[-1].held) == (("ruin",), True)
    assert asked == ["cheap,fair", "cheap", "cheap,fair,dear"]
    tried, asked = _run(0.993, default=("ruin",))
    assert tried[-1].kept == ("dear", "ruin")
    assert asked.count("cheap,fair,dear") == 1, "which does not hold, and was tried"
    assert "cheap" not in _run(0.98, default=("fair", "dear", "ruin"))[1], "less than was found"


def test_scores_count() -> None:
    assert _run(0.98, scores="dear")[0][-1].kept == ("dear", "ruin")


def test_nothing_that_holds_ends_in_a_failure() -> None:
    tried, _ = _run(0.9999)
    assert not any(step.held for step in tried)
