"""Clocks and power of the machine during a measurement; values that cannot be read are left out."""

import contextlib
from collections import defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType

import numpy as np

from idol_runtime.backends.cuda_device import device_index, pci_bus_id
from idol_runtime.errors import IdolError
from idol_runtime.optional import import_optional

__all__ = ["Sensors"]


class Sensors:
    """The readable sensors of the machine and their samples.

    Args:
        device: `cuda` or `cuda:N` also reads NVIDIA's driver, if nvidia-ml-py is installed.
        root: root of the file system; tests use another.

    Raises:
        BackendError: the device's name is invalid.
    """

    def __init__(self, device: str = "cpu", root: Path = Path("/")) -> None:
        self._root = root
        self._samples: dict[str, list[float]] = defaultdict(list)
        self._gpu = _find_gpu(device_index(device)) if device.startswith("cuda") else None

    def sample(self) -> None:
        """Read all sensors once."""
        clocks = self._numbers("sys/devices/system/cpu/cpu[0-9]*/cpufreq/scaling_cur_freq")  # kHz
        if clocks:
            self._samples["cpu_mhz"].append(float(np.mean(clocks)) / 1e3)
        # On a Jetson: the GPU's clock in Hz, and power monitors with mV and mA by channel.
        jetson = self._numbers("sys/class/devfreq/*gpu*/cur_freq")
        if jetson:
            self._samples["gpu_mhz"].append(max(jetson) / 1e6)
        for monitor in self._root.glob("sys/bus/i2c/drivers/ina3221/*/hwmon/hwmon*"):
            self._sample_monitor(monitor)
        if self._gpu is not None:
            self._sample_gpu(*self._gpu)

    def report(self) -> Mapping[str, Mapping[str, float]]:
        """Return minimum, median and maximum of every sensor that was read."""
        return {
            name: {"min": round(min(v), 2), "median": round(float(np.median(v)), 2), "max": round(max(v), 2)}
            for name, v in self._samples.items()
        }

    def _numbers(self, pattern: str) -> list[float]:
        numbers = []
        for path in self._root.glob(pattern):
            with contextlib.suppress(OSError, ValueError):
                numbers.append(float(path.read_text()))
        return numbers

    def _sample_monitor(self, monitor: Path) -> None:
        for channel in (1, 2, 3):
            with contextlib.suppress(OSError, ValueError):
                label = (monitor / f"in{channel}_label").read_text().strip()
                millivolts = float((monitor / f"in{channel}_input").read_text())
                milliamperes = float((monitor / f"curr{channel}_input").read_text())
                self._samples[f"{label.lower()}_w"].append(millivolts * milliamperes / 1e6)

    def _sample_gpu(self, nvml: ModuleType, bus_id: str) -> None:
        with contextlib.suppress(nvml.NVMLError):  # the driver fails
            gpu = nvml.nvmlDeviceGetHandleByPciBusId(bus_id)
            readings: dict[str, Callable[[], float]] = {
                "gpu_mhz": lambda: float(nvml.nvmlDeviceGetClockInfo(gpu, nvml.NVML_CLOCK_SM)),
                "gpu_w": lambda: nvml.nvmlDeviceGetPowerUsage(gpu) / 1e3,
                "gpu_used_mib": lambda: nvml.nvmlDeviceGetMemoryInfo(gpu).used / 2**20,
            }
            for name, read in readings.items():
                with contextlib.suppress(nvml.NVMLError):  # this device lacks the sensor
                    value = read()
                    self._samples[name].append(value)


def _find_gpu(index: int) -> tuple[ModuleType, str] | None:
    """Return NVIDIA's management library, initialised, and the device's PCI bus id; None if one is missing."""
    try:
        nvml: ModuleType = import_optional("pynvml", "nvidia-ml-py", "bench", "reading a GPU's clocks")
        bus_id = pci_bus_id(index)
    except IdolError:
        return None
    with contextlib.suppress(nvml.NVMLError):
        nvml.nvmlInit()
        return nvml, bus_id
    return None
