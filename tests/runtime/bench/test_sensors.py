"""Tests of the sensors that are files on Linux and on a Jetson."""

from pathlib import Path
from typing import Any

import pytest

from idol_runtime.bench.sensors import Sensors, power
from idol_runtime.errors import BackendError


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


def jetson(root: Path, rails: dict[str, int]) -> None:
    """Write the files of a Jetson whose rails take these milliwatts at 5 V."""
    for number, (label, milliwatts) in enumerate(rails.items()):
        monitor = f"sys/bus/i2c/drivers/ina3221/1-004{number // 3}/hwmon/hwmon{number // 3}"
        channel = number % 3 + 1
        write(root, f"{monitor}/in{channel}_label", f"{label}\n")
        write(root, f"{monitor}/in{channel}_input", "5000\n")
        write(root, f"{monitor}/curr{channel}_input", f"{milliwatts // 5}\n")
    write(root, "proc/device-tree/model", "NVIDIA Jetson Orin Nano\0")
    write(root, "var/lib/nvpmodel/status", "pmode:0002\n")
    modes = "< POWER_MODEL ID=0 NAME=15W >\n< POWER_MODEL ID=2 NAME=MAXN_SUPER >\nCPU_ONLINE CORE_1 1\n"
    write(root, "etc/nvpmodel.conf", modes)


def test_the_power_of_a_board_with_a_total_rail(tmp_path: Path) -> None:
    jetson(tmp_path, {"VDD_IN": 9000, "VDD_CPU_GPU_CV": 3000, "VDD_SOC": 2000})
    assert power(Sensors(root=tmp_path).read()) == ("vdd_in_w", 9)


def test_the_power_of_a_board_without_one_is_the_sum_of_its_rails(tmp_path: Path) -> None:
    """Like an AGX Orin, with an unconnected channel."""
    jetson(
        tmp_path, {"VDD_GPU_SOC": 8000, "VDD_CPU_CV": 3000, "VIN_SYS_5V0": 4000, "NC": 5, "VDDQ_VDD2": 1000}
    )
    reading = Sensors(root=tmp_path).read()
    assert power(reading) == ("vdd_cpu_cv_w + vdd_gpu_soc_w + vddq_vdd2_w + vin_sys_5v0_w", 16)
    assert "nc_w" not in reading


def test_a_thor_has_its_total_in_microwatts(tmp_path: Path) -> None:
    jetson(tmp_path, {"VDD_GPU": 8000})
    write(tmp_path, "sys/bus/i2c/drivers/ina238/2-0044/hwmon/hwmon4/power1_input", "43500000")
    assert power(Sensors(root=tmp_path).read()) == ("vin_w", 43.5)


def test_board_and_power_mode(tmp_path: Path) -> None:
    jetson(tmp_path, {})
    sensors = Sensors(root=tmp_path)
    assert sensors.facts() == {"board": "NVIDIA Jetson Orin Nano", "power_mode": "2 (MAXN_SUPER)"}
    (tmp_path / "etc/nvpmodel.conf").unlink()
    assert sensors.facts()["power_mode"] == "2"


def test_temperatures_and_throttling(tmp_path: Path) -> None:
    for number, (kind, temp) in enumerate(
        (("cpu-thermal", 51000), ("gpu-thermal", 48500), ("cv0-thermal", 1))
    ):
        write(tmp_path, f"sys/class/thermal/thermal_zone{number}/type", kind)
        write(tmp_path, f"sys/class/thermal/thermal_zone{number}/temp", str(temp))
    for number, (kind, state) in enumerate((("pwm-fan", 3), ("gpu-throttle-alert", 1))):
        write(tmp_path, f"sys/class/thermal/cooling_device{number}/type", kind)
        write(tmp_path, f"sys/class/thermal/cooling_device{number}/cur_state", str(state))
    write(tmp_path, "sys/class/hwmon/hwmon1/oc1_event_cnt", "4")
    write(tmp_path, "sys/class/hwmon/hwmon1/oc3_event_cnt", "2")
    sensors = Sensors(root=tmp_path)
    assert sensors.read() == {"cpu_c": 51, "gpu_c": 48.5, "oc_events": 6, "throttle_alerts": 1}
    sensors.sample()
    assert set(sensors.report()) == {"cpu_c", "gpu_c"}, "counters have no median"


def deny(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Refuse to read files of this name, also to root."""
    read_text = Path.read_text

    def refuse(path: Path, *arguments: Any) -> str:
        if path.name == name:
            raise PermissionError(13, "Permission denied")
        return read_text(path, *arguments)

    monkeypatch.setattr(Path, "read_text", refuse)


def test_a_rail_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The sum of the others would be too low."""
    jetson(tmp_path, {"VDD_IN": 9000, "VDD_SOC": 2000})
    deny(monkeypatch, "curr1_input")
    sensors = Sensors(root=tmp_path)
    assert power(sensors.read()) is None
    assert sensors.reasons["rails"].endswith("curr1_input cannot be read: Permission denied; run as root")


def test_the_device_memory_of_a_process_on_a_jetson(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    jetson(tmp_path, {})
    table = "CLIENT PROCESS PID SIZE\nuser python3 42 524288K\nuser python3 421 1024K\ntotal 525312K\n"
    write(tmp_path, "sys/kernel/debug/nvmap/iovmm/clients", table)
    sensors = Sensors(root=tmp_path)
    assert (sensors.memory_mib(42), sensors.memory_mib(421), sensors.memory_mib(4)) == (512, 1, None)
    deny(monkeypatch, "clients")
    assert sensors.memory_mib(42) is None
    assert sensors.reasons["device_mib"].endswith("clients cannot be read: Permission denied; run as root")


def test_no_device_of_that_name() -> None:
    with pytest.raises(BackendError, match="'cuda:x'; use --device cuda or cuda:N"):
        Sensors("cuda:x")
