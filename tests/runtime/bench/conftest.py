"""Fixtures: an invented report, and a bundle for worker processes."""

from pathlib import Path
from typing import Any

import pytest

from idol_runtime.timing import paired_ratio, summarise


def _row(name: str, network_ms: list[float], error: float, parity: float | None) -> dict[str, Any]:
    stages = {
        "preprocess": [1.0] * len(network_ms),
        "network": network_ms,
        "postprocess": [2.0] * len(network_ms),
    }
    age = [3.0 + taken for taken in network_ms]
    return {
        "row": name,
        "backend": f"{name} (cpu)",
        "precision": "fp32",
        "stages_ms": {stage: summarise(taken) for stage, taken in stages.items()},
        "age_ms": summarise(age),
        "frames_per_s": 12.5,
        "faster_network": paired_ratio([200.0] * len(network_ms), network_ms),
        "faster_frame": paired_ratio([203.0] * len(network_ms), age),
        "start_s": 1.5,
        "open_s": 1.0,
        "first_frame_s": 0.25,
        "peak_mib": 321,
        "golden_error": error,
        "wrong": error > 0.1,
        "parity": parity,
        "id_agreement": None,
        "network_ms": network_ms,
        "roofline_share": 0.5,
    }


@pytest.fixture
def report() -> dict[str, Any]:
    return {
        "format": 1,
        "bundle": {
            "preset": "toy <1>",
            "frame_size": [72, 104],
            "network_size": [72, 104],
            "weights_sha256": "00",
            "note": "",
        },
        "machine": {
            "cpu": "a processor",
            "cores": 2,
            "system": "Linux",
            "python": "3.11",
            "date": "2026-11-22",
        },
        "versions": {},
        "frames": 3,
        "threads": 2,
        "device": "cpu",
        "source": "golden frame, drifting",
        "clocks": {"cpu_mhz": {"min": 1000.0, "median": 2000.0, "max": 3000.0}},
        "rows": [
            _row("eager", [200.0, 200.0, 200.0], 0.0, None),
            _row("fast & right", [40.0, 50.0, 80.0], 1e-6, 0.25),
            _row("wrong", [10.0, 10.0, 10.0], 0.9, None),
        ],
        "left_out": [{"row": "absent", "why": "it is not installed"}],
        "roofline": {
            "work": {"flops": 10**10, "bytes": 10**9},
            "peak_gflops": 500.0,
            "peak_gb_s": 10.0,
            "floor_ms": 100.0,
        },
    }


@pytest.fixture
def tiny_bundle(kit: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a bundle whose graphs cannot run; started processes can import this folder's modules."""
    monkeypatch.syspath_prepend(Path(__file__).parents[3])
    path: Path = kit.write(tmp_path / "tiny.idol")
    return path
