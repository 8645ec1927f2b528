"""Tests of power, energy per frame and throttling of a row, against values computed by hand."""

import os
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from idol_runtime.bench import burst as module
from idol_runtime.bench.burst import energy, idle_power, run_alone, throttling
from idol_runtime.bench.sensors import Sensors
from tests.runtime.bench.conftest import Nvml


def test_energy_is_the_increase_of_the_counter() -> None:
    """180 J in 3 s are 60 W; by 90 frames they are 2 J. The power sensor, a mean of the last second, is not used."""
    readings = [{"gpu_energy_j": count, "gpu_w": 5.0} for count in (1000.0, 1050.0, 1180.0)]
    assert energy(readings, 90, 3.0) == {
        "watts": 60,
        "joules_per_frame": 2,
        "power_source": "gpu_energy_j",
    }


@pytest.mark.parametrize(
    "counts",
    [(4.2e6, 4.3e6, 10.0), (4.2e6, 10.0, 4.3e6), (7.0, 7.0, 7.0)],
    ids=["wraps", "restarts", "stands"],
)
def test_energy_without_a_counter_that_rises(counts: tuple[float, ...]) -> None:
    """A mean of 20 W for 3 s are 60 J; by 120 frames they are 0.5 J."""
    powers = (10.0, 20.0, 30.0)
    readings = [{"gpu_energy_j": count, "gpu_w": watts} for count, watts in zip(counts, powers, strict=True)]
    assert energy(readings, 120, 3.0) == {"watts": 20, "joules_per_frame": 0.5, "power_source": "gpu_w"}


def test_energy_of_rails_and_of_no_sensor() -> None:
    rails = [{"vdd_in_w": 8.0, "vdd_soc_w": 2.0}, {"vdd_soc_w": 2.0}, {"vdd_in_w": 10.0, "vdd_soc_w": 2.0}]
    # The reading without the total rail would be the sum of others.
    assert energy(rails, 18, 2.0) == {"watts": 9, "joules_per_frame": 1, "power_source": "vdd_in_w"}
    assert set(energy([{"cpu_mhz": 1.0}], 1, 1.0).values()) == {None}


@pytest.mark.parametrize(
    ("readings", "expected"),
    [
        ([{"gpu_throttle": 0x01}, {"gpu_throttle": 0x02}], []),  # idle, and clocks of the user
        ([{"gpu_throttle": 0x24}, {"gpu_throttle": 0x01}], ["power cap", "temperature"]),
        ([{"oc_events": 3}, {"oc_events": 3}], []),
        ([{"oc_events": 3, "throttle_alerts": 0}, {"oc_events": 4, "throttle_alerts": 0}], ["over-current"]),
        ([{"throttle_alerts": 0}, {"throttle_alerts": 1}, {"throttle_alerts": 0}], ["temperature"]),
        ([{"gpu_mhz": 1.0}], None),
    ],
)
def test_throttling(readings: list[dict[str, float]], expected: list[str] | None) -> None:
    assert throttling(readings) == expected


class Scripted:
    """A worker that runs 30 frames a second and draws 250 W meanwhile."""

    def __init__(self, nvml: Nvml, pid: int) -> None:
        self.pid, self.row, self._nvml = pid, SimpleNamespace(name="row"), nvml

    def run(self, seconds: float, period: float, sample: Callable[[], object] = lambda: None) -> Any:
        for _ in range(round(seconds / period)):
            self._nvml.millijoules += round(250e3 * period)
            sample()
        return round(30 * seconds), seconds


def test_a_row_alone_on_a_gpu(
    fake_tensorrt: Callable[..., ModuleType], nvml: Nvml, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_tensorrt()
    monkeypatch.setattr(module, "_IDLE_READINGS", 1)
    nvml.lacks.clear()
    sensors = Sensors("cuda:0", root=tmp_path)
    assert idle_power(sensors) == 250
    assert run_alone(Scripted(nvml, os.getpid()), sensors, 700.0) == {  # type: ignore[arg-type]
        "frames": 90,
        "seconds": 3,
        "device_mib": 512,
        "memory_source": "process",
        "gpu_mhz": 1980,
        "throttled": ["power cap"],
        "watts": 250,
        "joules_per_frame": pytest.approx(250 / 30, abs=1e-4),
        "power_source": "gpu_energy_j",
        "missing": {},
    }
    in_container = run_alone(Scripted(nvml, 2), sensors, 700.0)  # type: ignore[arg-type]
    assert (in_container["device_mib"], in_container["memory_source"]) == (700, "increase")


def test_a_device_that_lacks_sensors(
    fake_tensorrt: Callable[..., ModuleType], nvml: Nvml, tmp_path: Path
) -> None:
    fake_tensorrt()
    sensors = Sensors("cuda:0", root=tmp_path)
    assert idle_power(sensors) is None
    burst = run_alone(Scripted(nvml, 2), sensors)  # type: ignore[arg-type]
    assert burst["gpu_mhz"] == 1980
    missing = {"device_mib", "watts", "joules_per_frame", "throttled"}
    assert {name for name, value in burst.items() if value is None} == missing | {
        "memory_source",
        "power_source",
    }
    assert set(burst["missing"]) == missing
    assert burst["missing"]["watts"] == "NVML: Not Supported"


def test_a_device_without_any_sensor(tmp_path: Path) -> None:
    burst = run_alone(Scripted(Nvml(), 2), Sensors(root=tmp_path))  # type: ignore[arg-type]
    assert burst["missing"]["gpu_mhz"] == "this machine has no sensor for it"
