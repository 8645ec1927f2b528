"""Tests of a GPU's sensors, with a fake of NVIDIA's management library."""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from idol_runtime.bench.sensors import Sensors, power
from tests.runtime.bench.conftest import Nvml

Start = Callable[..., ModuleType]


def test_the_gpu_that_cuda_counts_is_read(fake_tensorrt: Start, nvml: Nvml, tmp_path: Path) -> None:
    """Like CUDA_VISIBLE_DEVICES=1; power, which this device lacks, is left out."""
    fake_tensorrt()
    sensors = Sensors("cuda", root=tmp_path)
    sensors.sample()
    readings = {name: values["median"] for name, values in sensors.report().items()}
    assert readings == {"gpu_mhz": 1980, "gpu_used_mib": 3}


def test_a_gpu_that_is_lost_ends_no_benchmark(fake_tensorrt: Start, nvml: Nvml, tmp_path: Path) -> None:
    fake_tensorrt()
    sensors = Sensors("cuda:0", root=tmp_path)
    nvml.lost = True
    sensors.sample()
    assert sensors.report() == {}
    nvml.lost = False
    sensors.sample()
    assert sensors.report()["gpu_mhz"]["median"] == 1980


def test_a_gpu_that_neither_knows_is_left_out(fake_tensorrt: Start, nvml: Nvml, tmp_path: Path) -> None:
    fake_tensorrt().driver.device.pci = (0, 0x99, 0)
    for device in ("cuda", "cuda:5"):
        sensors = Sensors(device, root=tmp_path)
        sensors.sample()
        assert sensors.report() == {}


def test_all_sensors_of_a_gpu(fake_tensorrt: Start, nvml: Nvml, tmp_path: Path) -> None:
    fake_tensorrt()
    nvml.lacks.clear()
    sensors = Sensors("cuda:0", root=tmp_path)
    reading = sensors.read()
    assert reading == {
        "gpu_mhz": 1980,
        "gpu_w": 250,
        "gpu_c": 61,
        "gpu_used_mib": 3,
        "gpu_energy_j": 1000,
        "gpu_throttle": 4,
    }
    assert power(reading) == ("gpu_w", 250)
    assert sensors.facts() == {"gpu": "Fake GPU", "driver": "580.95", "power_limit_w": 300}
    assert sensors.reasons == {}


def test_throttling_before_driver_535(fake_tensorrt: Start, nvml: Nvml, tmp_path: Path) -> None:
    fake_tensorrt()
    nvml.lacks = {"nvmlDeviceGetCurrentClocksEventReasons"}
    assert Sensors("cuda:0", root=tmp_path).read()["gpu_throttle"] == 8


def test_memory_of_a_process(fake_tensorrt: Start, nvml: Nvml, tmp_path: Path) -> None:
    fake_tensorrt()
    sensors = Sensors("cuda:0", root=tmp_path)
    assert sensors.memory_mib(os.getpid()) == 512
    assert sensors.memory_mib(1) is None, "NVML does not tell its memory"
    assert sensors.memory_mib(2) is None
    assert (
        "does not list the row's process; start a container with --pid=host" in sensors.reasons["device_mib"]
    )


def test_reasons_of_missing_sensors(fake_tensorrt: Start, nvml: Nvml, tmp_path: Path) -> None:
    fake_tensorrt()
    sensors = Sensors("cuda:0", root=tmp_path)
    sensors.read()
    assert sensors.reasons["gpu_w"] == "NVML: Not Supported"
    nvml.lacks.clear()
    sensors.read()
    assert "gpu_w" not in sensors.reasons


def test_without_nvidia_ml_py(fake_tensorrt: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_tensorrt()
    monkeypatch.setitem(sys.modules, "pynvml", None)
    sensors = Sensors("cuda:0", root=tmp_path)
    assert sensors.read() == {}
    assert "pip install 'idol-deploy[bench]'" in sensors.reasons["nvml"]
