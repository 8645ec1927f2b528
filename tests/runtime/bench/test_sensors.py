"""Clocks and power, from files laid out as Linux and a Jetson have them."""

from pathlib import Path

import pytest

from idol_runtime.bench.sensors import Sensors


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
