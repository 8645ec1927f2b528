"""Tests of the order of rows, of rows that fail, and of the report, with fake rows."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from idol_runtime.bench import measure as module
from idol_runtime.bench.measure import BenchOptions, measure
from idol_runtime.bench.roofline import GraphCost, Peaks
from idol_runtime.bench.rows import BenchRow
from idol_runtime.bench.sensors import Sensors
from idol_runtime.bench.worker import OpenReport
from idol_runtime.errors import BackendError, ConfigError, IdolError

TURNS: list[str] = []
CLOSED: list[str] = []


class Scripted:
    """A fake worker whose network takes the milliseconds in its name; `dies` fails at its third frame."""

    def __init__(self, row: BenchRow, *_: object) -> None:
        if "absent" in row.name:
            raise BackendError("no such engine; install it")
        self.row, self.start_s = row, 1.25
        self.opening = OpenReport(f"{row.name} (cpu)", 1.0, 0.5, 1e-6, False)
        self._steps = 0

    def step(self) -> Mapping[str, float]:
        self._steps += 1
        TURNS.append(self.row.name)
        if "dies" in self.row.name and self._steps == 3:
            raise BackendError("its process ended")
        # The first frames are slow in all rows.
        warm = 100.0 if self._steps <= 2 else 1.0
        return {"preprocess": 1.0, "network": warm * float(self.row.name.split()[0])}

    def run(self, seconds: float, period: float, sample: Callable[[], object] = lambda: None) -> Any:
        TURNS.append(f"{self.row.name} alone")
        if "tires" in self.row.name:
            raise BackendError("its process ended")
        sample()
        return 10, 2.0

    @property
    def pid(self) -> int:
        return 0

    def peak_mib(self) -> float:
        return 123.4

    def close(self) -> None:
        CLOSED.append(self.row.name)


@pytest.fixture(autouse=True)
def _scripted(monkeypatch: pytest.MonkeyPatch) -> None:
    TURNS.clear()
    CLOSED.clear()
    monkeypatch.setattr(module, "Worker", Scripted)
    monkeypatch.setattr(module, "_in_process", lambda *_: ("3 fast", "running fast on a fake"))
    monkeypatch.setattr(
        module, "_roofline", lambda *_: module._floor(GraphCost(10**9, 10**6), Peaks(flops=1e12, bytes=1e12))
    )


def rows(*names: str, **options: Any) -> list[BenchRow]:
    return [
        BenchRow(name, lambda: pytest.fail("opened by the row's process alone"), **options) for name in names
    ]


def test_a_device_that_cannot_be_is_told_before_any_row_is_opened() -> None:
    said: list[str] = []
    with pytest.raises(BackendError, match="'cuda:x'; use --device cuda or cuda:N"):
        measure("none.idol", rows("1"), BenchOptions(device="cuda:x"), said.append)
    assert said == []


def test_rows_take_turns_and_the_first_is_the_reference(tiny_bundle: Path) -> None:
    report = measure(tiny_bundle, rows("12 slow", "3 fast"), BenchOptions(frames=4, warmup=2))
    assert TURNS == ["12 slow", "3 fast"] * 6
    assert CLOSED == ["3 fast", "12 slow"]
    slow, fast = report["rows"]
    assert fast["stages_ms"]["network"]["p99"] == 3, "warming up counts for nothing"
    assert fast["faster_network"] == {"median": 4, "p10": 4, "p90": 4}
    assert fast["faster_frame"]["median"] == pytest.approx(13 / 4)
    assert slow["frames_per_s"] == pytest.approx(1e3 / 13, abs=0.01)
    assert [row["used"] for row in report["rows"]] == [False, True]
    assert (fast["roofline_share"], fast["peak_mib"], fast["start_s"]) == (0.333, 123, 1.25)
    assert json.loads(json.dumps(report))["bundle"]["preset"] == "tiny"


def test_a_row_that_is_absent_or_dies_is_left_out(tiny_bundle: Path) -> None:
    report = measure(tiny_bundle, rows("1 absent", "2 stays", "3 dies"), BenchOptions(frames=4, warmup=2))
    assert [row["row"] for row in report["rows"]] == ["2 stays"]
    assert report["left_out"] == [
        {"row": "1 absent", "why": "no such engine; install it"},
        {"row": "3 dies", "why": "its process ended"},
    ]


def test_a_bundle_that_run_refuses_has_no_used_row(tiny_bundle: Path) -> None:
    used, why = module._choice(tiny_bundle, BenchOptions())
    assert used == ""
    assert why


def test_a_row_that_was_asked_for_must_be_there(tiny_bundle: Path) -> None:
    with pytest.raises(BackendError, match="no such engine"):
        measure(tiny_bundle, [*rows("2 stays"), *rows("1 absent", required=True)], BenchOptions())
    assert CLOSED == ["2 stays"]


class Board(Sensors):
    """A board with one rail of 8 W."""

    def read(self) -> dict[str, float]:
        return {"vdd_in_w": 8.0}


def test_power_is_measured_after_the_turns_where_there_is_a_sensor(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "Sensors", Board)
    report = measure(tiny_bundle, rows("1 a", "2 tires", "3 b"), BenchOptions(frames=1, warmup=0))
    assert ["1 a", "2 tires", "3 b", *["1 a alone"] * 2, "2 tires alone", *["3 b alone"] * 2] == TURNS
    assert [row["row"] for row in report["rows"]] == ["1 a", "3 b"]
    assert report["left_out"] == [{"row": "2 tires", "why": "its process ended"}]
    assert report["idle_w"] == 8
    for row in report["rows"]:
        assert (row["burst"]["watts"], row["burst"]["joules_per_frame"]) == (8, 1.6)


def test_no_power_is_measured_without_a_sensor_on_a_cpu(tiny_bundle: Path) -> None:
    report = measure(tiny_bundle, rows("1 a"), BenchOptions(frames=1, warmup=0))
    assert TURNS == ["1 a"]
    assert report["rows"][0]["burst"] is report["idle_w"] is None


@pytest.mark.parametrize(
    ("before", "after", "increase"),
    [
        ({"gpu_used_mib": 100.0}, {"gpu_used_mib": 650.0}, 550.0),
        ({"gpu_used_mib": 650.0}, {"gpu_used_mib": 650.0}, None),  # another process freed as much
        ({}, {"gpu_used_mib": 650.0}, None),
    ],
)
def test_increase_of_the_used_memory(
    before: dict[str, float], after: dict[str, float], increase: float | None
) -> None:
    assert module._increase_mib(before, after) == increase


@pytest.mark.parametrize("names", [("1 absent",), ("1 dies",), ()])
def test_nothing_to_measure(tiny_bundle: Path, names: tuple[str, ...]) -> None:
    with pytest.raises(IdolError, match="no row could be"):
        measure(tiny_bundle, rows(*names), BenchOptions(frames=4, warmup=2))


def test_options_that_cannot_be() -> None:
    with pytest.raises(ConfigError, match="frames must be at least 1, got 0"):
        BenchOptions(frames=0)
    with pytest.raises(ConfigError, match="warmup must be 0 or more, got -1"):
        BenchOptions(warmup=-1)
    with pytest.raises(ConfigError, match="threads must lie between 1 and 1024, got 1025"):
        BenchOptions(threads=1025)
