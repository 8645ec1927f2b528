"""File systems of other machines, as their documentation shows them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

ORIN_CORE = (
    "processor\t: {}\nmodel name\t: ARMv8 Processor rev 1 (v8l)\n"
    "Features\t: fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp\n"
    "CPU implementer\t: 0x41\nCPU part\t: 0xd42\nCPU revision\t: 1\n\n"
)
ORIN: Mapping[str, str] = {
    "etc/os-release": 'PRETTY_NAME="Ubuntu 24.04.3 LTS"\nID=ubuntu\nID_LIKE=debian\n',
    "etc/nv_tegra_release": (
        "# R39 (release), REVISION: 2.1, GCID: 46758480, BOARD: generic, EABI: aarch64, DATE: Fri Aug 7 2026\n"
    ),
    "proc/sys/kernel/osrelease": "6.8.12-1021-tegra\n",
    "proc/device-tree/model": "NVIDIA Jetson Orin Nano Developer Kit\0",
    "proc/cpuinfo": "".join(ORIN_CORE.format(core) for core in range(6)),
    "proc/meminfo": "MemTotal:        7802428 kB\nMemFree: 1 kB\nMemAvailable:    5120000 kB\nSwapTotal: 3901208 kB\n",
    "etc/nvpmodel.conf": (
        "< POWER_MODEL ID=0 NAME=15W >\n< POWER_MODEL ID=1 NAME=25W >\n< POWER_MODEL ID=2 NAME=MAXN_SUPER >\n"
    ),
    "var/lib/nvpmodel/status": "pmode:0001 fmode:quiet\n",
    **{
        f"sys/devices/system/cpu/cpu{core}/cpufreq/{name}": value
        for core in range(6)
        for name, value in (
            ("scaling_governor", "schedutil"),
            ("scaling_cur_freq", "729600"),
            ("scaling_min_freq", "729600"),
            ("scaling_max_freq", "1510400"),
        )
    },
    "sys/class/video4linux/video0/name": "vi-output, imx219 9-0010\n",
    "sys/class/video4linux/video0/index": "0\n",
    "sys/class/video4linux/video1/name": "HD Pro\x1b[2J Webcam C920\n",
    "sys/class/video4linux/video1/index": "0\n",
    "sys/class/video4linux/video2/name": "HD Pro Webcam C920\n",
    "sys/class/video4linux/video2/index": "1\n",
    "dev/video0": "",
    "dev/video1": "",
    "dev/video2": "",
}
ORIN_6 = {
    **ORIN,
    "etc/os-release": 'PRETTY_NAME="Ubuntu 22.04.5 LTS"\nID=ubuntu\nID_LIKE=debian\n',
    "etc/nv_tegra_release": "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, EABI: aarch64\n",
    "proc/sys/kernel/osrelease": "5.15.148-tegra\n",
    "var/lib/dpkg/status": (
        "Package: nvidia-jetpack-dev\nVersion: 6.0+b1\n\nPackage: nvidia-jetpack\nStatus: install ok installed\n"
        "Description: NVIDIA Jetpack\n meta package\nVersion: 6.2.1+b38\n\n"
    ),
}
SERVER: Mapping[str, str] = {
    "etc/os-release": 'PRETTY_NAME="Fedora Linux 42"\nID=fedora\n',
    "proc/sys/kernel/osrelease": "6.14.0-63.fc42.aarch64\n",
    "proc/cpuinfo": "".join(
        f"processor\t: {core}\nFeatures\t: fp asimd asimddp sve i8mm bf16\nCPU part\t: 0xd40\n\n"
        for core in range(4)
    ),
    "proc/meminfo": "MemTotal: 16000000 kB\nMemAvailable: 8000000 kB\n",
    "run/.containerenv": "",
    "sys/fs/cgroup/cpu.max": "150000 100000\n",
    "sys/bus/pci/devices/0000:01:00.0/vendor": "0x10de\n",
    "sys/bus/pci/devices/0000:01:00.0/class": "0x030200\n",
}

MakeRoot = Callable[[Mapping[str, str]], Path]
Script = Callable[[str, str], None]


@pytest.fixture
def make_root(tmp_path: Path) -> MakeRoot:
    """Function that writes the files of a machine and returns their root."""

    def make(files: Mapping[str, str]) -> Path:
        for name, text in files.items():
            path = tmp_path / "root" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return tmp_path / "root"

    return make


@pytest.fixture
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Script:
    """Function that writes a shell script, which comes first on the PATH."""
    folder = tmp_path / "scripts"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:/bin:/usr/bin")

    def write(name: str, text: str) -> None:
        (folder / name).write_text(f"#!/bin/sh\n{text}\n")
        (folder / name).chmod(0o755)

    return write
