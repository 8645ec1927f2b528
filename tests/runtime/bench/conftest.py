"""Fixtures: an invented report, a bundle for worker processes, and NVIDIA's management library."""

import os
import sys
from pathlib import Path
from types import SimpleNamespace
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


_OPTIONAL = {
    "nvmlDeviceGetPowerUsage": 250_000,
    "nvmlDeviceGetTemperature": 61,
    "nvmlDeviceGetTotalEnergyConsumption": None,
    "nvmlDeviceGetCurrentClocksEventReasons": 4,
    "nvmlDeviceGetCurrentClocksThrottleReasons": 8,
    "nvmlDeviceGetEnforcedPowerLimit": 300_000,
    "nvmlDeviceGetName": "Fake GPU",
    "nvmlSystemGetDriverVersion": "580.95",
}


class Nvml:
    """A fake of NVIDIA's management library on a machine with two GPUs; it lists both, also those hidden from CUDA."""

    NVML_CLOCK_SM, NVML_TEMPERATURE_GPU = 1, 0

    class NVMLError(Exception):
        """The error of all functions."""

    def __init__(self) -> None:
        self.megahertz = {"00000000:01:00.0": 210, "00000000:41:00.0": 1980}
        self.lost = False
        self.lacks = set(_OPTIONAL)
        self.millijoules = 1_000_000

    def nvmlInit(self) -> None:  # noqa: N802
        """Start without an error."""

    def nvmlDeviceGetHandleByIndex(self, index: int) -> str:  # noqa: N802
        self.check()
        return list(self.megahertz)[index]

    def nvmlDeviceGetHandleByPciBusId(self, place: str) -> str:  # noqa: N802
        self.check()
        if place not in self.megahertz:
            raise self.NVMLError("Not Found")
        return place

    def nvmlDeviceGetClockInfo(self, handle: str, kind: int) -> int:  # noqa: N802
        assert kind == self.NVML_CLOCK_SM
        return self.megahertz[handle]

    def __getattr__(self, name: str) -> Any:
        """Return the function of a sensor that some devices lack."""
        if name not in _OPTIONAL:
            raise AttributeError(name)

        def read(*_: object) -> object:
            self.check()
            if name in self.lacks:
                raise self.NVMLError("Not Supported")
            return self.millijoules if "Energy" in name else _OPTIONAL[name]

        return read

    def nvmlDeviceGetComputeRunningProcesses(self, handle: str) -> list[SimpleNamespace]:  # noqa: N802
        self.check()
        used = {1: None, os.getpid(): 512 * 2**20}
        return [SimpleNamespace(pid=pid, usedGpuMemory=size) for pid, size in used.items()]

    def nvmlDeviceGetMemoryInfo(self, handle: str) -> SimpleNamespace:  # noqa: N802
        return SimpleNamespace(used=3 * 2**20)

    def check(self) -> None:
        if self.lost:
            raise self.NVMLError("GPU is lost")


@pytest.fixture
def nvml(monkeypatch: pytest.MonkeyPatch) -> Nvml:
    library = Nvml()
    monkeypatch.setitem(sys.modules, "pynvml", library)
    return library
