"""Power, energy per frame, clock, throttling and device memory of a row, from a burst: the row alone for some seconds.

Rows that are timed run interleaved, and power sensors are slower than a frame. A reading taken there would mix rows.
"""

import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from idol_runtime.bench.sensors import Reading, Sensors, power
from idol_runtime.bench.worker import Worker

__all__ = ["energy", "idle_power", "run_alone", "throttling"]

# Some GPUs report the mean power of the last second, so a row runs for a second before it is measured.
_SETTLE_S, _BURST_S = 1.0, 3.0
_IDLE_READINGS, _PERIOD_S = 10, 0.1
# NVML's bits of reasons for lower clocks, without an idle GPU and clocks that the user has set.
_THROTTLE_BITS = {
    0x04: "power cap",
    0x08: "hardware slowdown",
    0x20: "temperature",
    0x40: "temperature, hardware",
    0x80: "power brake",
}
# Names in `Sensors.reasons` that explain a missing value.
_SENSORS_OF = {
    "device_mib": ("nvml", "device_mib"),
    "watts": ("nvml", "gpu_w", "rails"),
    "joules_per_frame": ("nvml", "gpu_w", "rails"),
    "gpu_mhz": ("nvml", "gpu_mhz"),
    "throttled": ("nvml", "gpu_throttle", "oc_events", "throttle_alerts"),
}


def run_alone(worker: Worker, sensors: Sensors, increase_mib: float | None = None) -> dict[str, Any]:
    """Run one row without pause while the others wait, and return the values of the sensors meanwhile.

    Args:
        worker: process of the row.
        sensors: sensors of the machine.
        increase_mib: increase of the device's used memory by opening the row, for a GPU that does not list processes.

    Returns:
        `frames`, `seconds`, the values named in docs/benchmark.md (None if missing), and `missing` with their reasons.

    Raises:
        BackendError: a frame failed, or the process has ended.
    """
    worker.run(_SETTLE_S, _PERIOD_S)
    readings = [sensors.read()]
    frames, seconds = worker.run(_BURST_S, _PERIOD_S, lambda: readings.append(sensors.read()))
    readings.append(sensors.read())
    memory = sensors.memory_mib(worker.pid)
    clocks = [reading["gpu_mhz"] for reading in readings if "gpu_mhz" in reading]
    values: dict[str, Any] = {
        "device_mib": increase_mib if memory is None else memory,
        "memory_source": ("process" if memory is not None else None if increase_mib is None else "increase"),
        "gpu_mhz": float(np.median(clocks)) if clocks else None,
        "throttled": throttling(readings),
        **energy(readings, frames, seconds),
    }
    missing = {name: _reason(sensors, name) for name in _SENSORS_OF if values[name] is None}
    return {"frames": frames, "seconds": round(seconds, 3), **values, "missing": missing}


def idle_power(sensors: Sensors) -> float | None:
    """Return the mean power in watts before any row is opened; None if there is no sensor."""
    readings = []
    for _ in range(_IDLE_READINGS):
        readings.append(power(sensors.read()))
        if readings[-1] is None:
            return None
        time.sleep(_PERIOD_S)
    return round(float(np.mean([reading[1] for reading in readings if reading])), 2)


def energy(readings: Sequence[Reading], frames: int, seconds: float) -> dict[str, Any]:
    """Return power and energy per frame, the idle power included.

    Args:
        readings: readings in the order of time, the first and the last at the ends of the burst.
        frames: number of frames.
        seconds: duration of the burst.

    Returns:
        `watts`, `joules_per_frame` and `power_source`: the GPU's energy counter if it rose throughout, or else the
        mean of the power readings; None without a sensor.
    """
    counts = [reading["gpu_energy_j"] for reading in readings if "gpu_energy_j" in reading]
    powers = [source for source in map(power, readings) if source is not None]
    if len(counts) == len(readings) and min(np.diff(counts)) >= 0 and counts[-1] > counts[0]:
        joules, name = counts[-1] - counts[0], "gpu_energy_j"
    elif powers:  # a counter that wraps or restarts falls
        name = powers[0][0]
        joules = seconds * float(np.mean([watts for source, watts in powers if source == name]))
    else:
        return {"watts": None, "joules_per_frame": None, "power_source": None}
    return {
        "watts": round(joules / seconds, 2),
        "joules_per_frame": round(joules / frames, 5),
        "power_source": name,
    }


def throttling(readings: Sequence[Reading]) -> list[str] | None:
    """Return the reasons for lower clocks during the readings; None without a sensor."""
    bits = [int(reading["gpu_throttle"]) for reading in readings if "gpu_throttle" in reading]
    events = [reading["oc_events"] for reading in readings if "oc_events" in reading]
    alerts = [reading["throttle_alerts"] for reading in readings if "throttle_alerts" in reading]
    if not (bits or events or alerts):
        return None
    union = int(np.bitwise_or.reduce(bits)) if bits else 0
    reasons = [name for bit, name in _THROTTLE_BITS.items() if union & bit]
    if events and events[-1] > events[0]:
        reasons.append("over-current")
    if any(alerts):
        reasons.append("temperature")
    return list(dict.fromkeys(reasons))


def _reason(sensors: Sensors, value: str) -> str:
    reasons = [sensors.reasons[name] for name in _SENSORS_OF[value] if name in sensors.reasons]
    return "; ".join(dict.fromkeys(reasons)) or "this machine has no sensor for it"
