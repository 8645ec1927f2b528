"""Tests of clocks and power, from files as on Linux and a Jetson."""

import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from idol_runtime.bench.sensors import Sensors
from idol_runtime.errors import BackendError

Start = Callable[..., ModuleType]


def write(root: Path, name: str, text: str) -> None:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_a_jetson(tmp_path: Path) -> None:
    monitor = "sys/bus/i2c/drivers/ina3221/1-0040/hwmon/hwmon3"
    for name, text in (("in1_label", "VDD_IN\n"), ("in1_input", "5000\n"), ("curr1_input", "3000\n")):
        write(tmp_path, f"{monitor}/{name}", text)
    write(tmp_path, "sys/class/devfreq/17000000.gpu/cur_freq", "918000000\n")
    for core, khz in (("cpu0", "1000000"), ("cpu1", "2000000"), ("cpufreq", "7")):
        write(tmp_path, f"sys/devices/system/cpu/{core}/cpufreq/scaling_cur_freq", khz)
    sensors = Sensors(root=tmp_path)
    sensors.sample()
    write(tmp_path, f"{monitor}/curr1_input", "5000\n")
    sensors.sample()
    found = sensors.report()
    assert found["vdd_in_w"] == {"min": 15, "median": 20, "max": 25}
    assert found["gpu_mhz"]["median"] == 918
    assert found["cpu_mhz"]["median"] == 1500


@pytest.mark.parametrize("text", ["", "not supported\n"])
def test_what_cannot_be_read_is_left_out(tmp_path: Path, text: str) -> None:
    write(tmp_path, "sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq", text)
    sensors = Sensors(root=tmp_path)
    sensors.sample()
    assert sensors.report() == {}


class Nvml:
    """A fake of NVIDIA's management library on a machine with two GPUs; it lists both, also those hidden from CUDA."""

    NVML_CLOCK_SM = 1

    class NVMLError(Exception):
        """The error of all functions."""

    def __init__(self) -> None:
        self.megahertz = {"00000000:01:00.0": 210, "00000000:41:00.0": 1980}
        self.lost = False

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

    def nvmlDeviceGetPowerUsage(self, handle: str) -> int:  # noqa: N802
        raise self.NVMLError("Not Supported")

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


def test_no_device_of_that_name() -> None:
    with pytest.raises(BackendError, match="'cuda:x'; use --device cuda or cuda:N"):
        Sensors("cuda:x")
