"""Clocks, power, temperatures and device memory of the machine during a measurement."""

import re
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from idol_runtime.backends.cuda_device import device_index
from idol_runtime.bench.nvml import Nvml
from idol_runtime.errors import IdolError

__all__ = ["Reading", "Sensors", "power"]

Reading = Mapping[str, float]  # values by sensor, at one moment

# Counters and bits, whose median means nothing.
_NO_SUMMARY = ("gpu_energy_j", "gpu_throttle", "oc_events", "throttle_alerts")
# Rails of the whole board: Orin NX and Nano, Thor, first Nano. An AGX Orin has none.
_TOTAL_RAILS = ("vdd_in_w", "vin_w", "pom_5v_in_w")
_NUMBER = re.compile(r"-?\d+")
_NVMAP = "sys/kernel/debug/nvmap/iovmm/clients"


class Sensors:
    """The readable sensors of the machine and their samples.

    Attributes:
        reasons: why a sensor could not be read the last time, by its name; `nvml` for NVML as a whole.
    """

    def __init__(self, device: str = "cpu", root: Path = Path("/")) -> None:
        """Find the sensors.

        Args:
            device: `cuda` or `cuda:N` also reads NVML, if nvidia-ml-py is installed.
            root: root of the file system; tests use another.

        Raises:
            BackendError: the device's name is invalid.
        """
        self._root = root
        self._samples: dict[str, list[float]] = defaultdict(list)
        self.reasons: dict[str, str] = {}
        self._gpu: Nvml | None = None
        if device.startswith("cuda"):
            index = device_index(device)
            try:
                self._gpu = Nvml(index)
            except IdolError as error:
                self.reasons["nvml"] = str(error)

    def read(self) -> dict[str, float]:
        """Read all sensors once; sensors that cannot be read are left out, see `reasons`."""
        values = self._files()
        if self._gpu is not None:
            values |= self._gpu.read(self.reasons)
        for name in values:
            self.reasons.pop(name, None)
        return values

    def sample(self) -> None:
        """Read all sensors once for `report`."""
        for name, value in self.read().items():
            if name not in _NO_SUMMARY:
                self._samples[name].append(value)

    def report(self) -> Mapping[str, Mapping[str, float]]:
        """Return minimum, median and maximum of every sensor that was sampled."""
        return {
            name: {"min": round(min(v), 2), "median": round(float(np.median(v)), 2), "max": round(max(v), 2)}
            for name, v in self._samples.items()
        }

    def facts(self) -> dict[str, Any]:
        """Return the constant facts that are known: GPU, driver, power limit, a Jetson's model and `nvpmodel` mode."""
        facts = {} if self._gpu is None else self._gpu.facts()
        board = self._text("proc/device-tree/model").rstrip("\0")
        if board:
            facts["board"] = board
        mode = re.search(r"pmode:(\d+)", self._text("var/lib/nvpmodel/status"))
        if mode:
            number, configuration = int(mode[1]), self._text("etc/nvpmodel.conf")
            name = re.search(rf"POWER_MODEL\s+ID={number}\s+NAME=(\S+)", configuration)
            facts["power_mode"] = f"{number} ({name[1]})" if name else str(number)
        return facts

    def memory_mib(self, pid: int) -> float | None:
        """Return the device memory of a process in MiB; None if it is unknown, see `reasons`.

        The source is NVML, or else a Jetson's driver, whose table only root can read.
        """
        memory = None if self._gpu is None else self._gpu.memory_mib(pid, self.reasons)
        if memory is None and self._text("proc/device-tree/model"):
            row = re.search(rf"^\S+\s+\S+\s+{pid}\s+(\d+)K\b", self._text(_NVMAP, "device_mib"), re.MULTILINE)
            memory = int(row[1]) / 1024 if row else None
        return memory

    def _files(self) -> dict[str, float]:
        """Read the sensors that are files, on Linux and on a Jetson."""
        values = {}
        clocks = self._numbers("sys/devices/system/cpu/cpu[0-9]*/cpufreq/scaling_cur_freq", "cpu_mhz")  # kHz
        if clocks:
            values["cpu_mhz"] = float(np.mean(clocks)) / 1e3
        # The following exist on a Jetson; the GPU's clock is in Hz.
        gpu = self._numbers("sys/class/devfreq/*gpu*/cur_freq", "gpu_mhz")
        if gpu:
            values["gpu_mhz"] = max(gpu) / 1e6
        for zone in self._glob("sys/class/thermal/thermal_zone*"):
            kind = self._text(zone / "type").lower()
            temperature = self._numbers(zone / "temp", "temperature")  # 1/1000 degree
            if temperature and kind.startswith(("cpu", "gpu", "tj")):
                name = f"{kind[:3].rstrip('-_')}_c"
                values[name] = max(values.get(name, -np.inf), temperature[0] / 1e3)
        return values | self._rails() | self._throttling()

    def _rails(self) -> dict[str, float]:
        """Read the power of a Jetson's rails; empty if the total is unknown, because one of them cannot be read."""
        rails: dict[str, float] = {}
        self.reasons.pop("rails", None)
        for monitor in self._glob("sys/bus/i2c/drivers/ina3221/*/hwmon/hwmon*"):
            for channel in (1, 2, 3):
                self._read_rail(monitor, channel, rails)
        total = self._numbers("sys/bus/i2c/drivers/ina238/*/hwmon/hwmon*/power1_input", "rails")  # uW, Thor
        if total:
            rails["vin_w"] = total[0] / 1e6
        return rails if "rails" not in self.reasons or rails.keys() & set(_TOTAL_RAILS) else {}

    def _throttling(self) -> dict[str, float]:
        """Read a Jetson's number of over-current events and its number of active alerts of temperature."""
        values = {}
        events = self._numbers("sys/class/hwmon/hwmon*/oc*_event_cnt", "oc_events")
        if events:
            values["oc_events"] = sum(events)
        alerts = [
            state
            for device in self._glob("sys/class/thermal/cooling_device*")
            if self._text(device / "type").endswith("throttle-alert")
            for state in self._numbers(device / "cur_state", "throttle_alerts")
        ]
        if alerts:
            values["throttle_alerts"] = sum(alerts)
        return values

    def _read_rail(self, monitor: Path, channel: int, values: dict[str, float]) -> None:
        label = self._text(monitor / f"in{channel}_label")
        if label in ("", "NC"):  # not connected
            return
        millivolts = self._numbers(monitor / f"in{channel}_input", "rails")
        milliamperes = self._numbers(monitor / f"curr{channel}_input", "rails")
        if millivolts and milliamperes:
            values[f"{label.lower()}_w"] = millivolts[0] * milliamperes[0] / 1e6

    def _glob(self, pattern: str) -> list[Path]:
        return sorted(self._root.glob(pattern))

    def _numbers(self, files: str | Path, sensor: str) -> list[float]:
        """Return the numbers in a file or in files of a pattern; write into `reasons` why one cannot be read."""
        paths = self._glob(files) if isinstance(files, str) else [files]
        texts = [(path, self._text(path, sensor)) for path in paths]
        numbers = [float(text) for _, text in texts if _NUMBER.fullmatch(text)]
        for path, text in texts:
            if text and not _NUMBER.fullmatch(text):
                self.reasons[sensor] = f"{path} holds no number: {text[:40]!r}"
        return numbers

    def _text(self, file: str | Path, sensor: str = "") -> str:
        """Return the text of a file, empty if it cannot be read; with a sensor's name, write the reason."""
        path = self._root / file
        try:
            return path.read_text().strip()
        except (OSError, UnicodeDecodeError) as error:
            if sensor:
                fix = "; run as root" if isinstance(error, PermissionError) else ""
                self.reasons[sensor] = f"{path} cannot be read: {getattr(error, 'strerror', error)}{fix}"
            return ""


def power(reading: Reading) -> tuple[str, float] | None:
    """Return source and value in watts of the power in a reading; None if it has none.

    The source is NVML for the GPU's board, or else a Jetson's total rail, or else the sum of its rails.
    """
    rails = {name: value for name, value in reading.items() if name.endswith("_w")}
    for name in ("gpu_w", *_TOTAL_RAILS):
        if name in rails:
            return name, rails[name]
    return (" + ".join(sorted(rails)), sum(rails.values())) if rails else None
