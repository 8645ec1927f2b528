"""The machine that is examined, and the commands that are right for it."""

import os
import platform
import re
import shlex
import sys
from pathlib import Path

__all__ = ["Subject", "install_extra"]

# JetPack by the release of Jetson Linux and, for containers that hide it, by the kernel.
_JETPACK = {"35": "5", "36": "6", "38": "7", "39": "7", "5.10": "5", "5.15": "6", "6.8": "7"}
# Files that exist in containers of a kind.
_CONTAINERS = {
    ".dockerenv": "docker",
    "run/.containerenv": "podman",
    "var/run/secrets/kubernetes.io": "kubernetes",
    "run/systemd/container": "systemd",
}
_NVIDIA, _DISPLAY = "0x10de", "0x03"  # vendor and class on the PCI bus


class Subject:
    """The machine that is examined.

    Attributes:
        root: root of its file system; tests use another.
        bundle: path of a bundle; empty without one.
        system: fields of its `os-release`.
        kernel: release of its kernel.
        container: kind of container that this process runs in; empty outside of one.
        jetson: board, release of Jetson Linux (L4T) and JetPack of a Jetson; empty for another machine.
        driver: version of NVIDIA's driver in the kernel; empty without one.
        nvidia: True if it has an NVIDIA GPU, with or without a driver.
    """

    def __init__(self, root: Path, bundle: str = "") -> None:
        self.root, self.bundle = root, bundle
        self.system = dict(re.findall(r'^(\w+)="?(.*?)"?$', self.read("etc/os-release"), re.MULTILINE))
        self.kernel = self.read("proc/sys/kernel/osrelease") or platform.release()
        self.container = next((kind for file, kind in _CONTAINERS.items() if (root / file).exists()), "")
        self.jetson = self._jetson()
        version = re.search(r"Module\s.*?\s(\d+\.[\d.]+)", self.read("proc/driver/nvidia/version"))
        self.driver = version[1] if version else ""
        displays = [
            d for d in root.glob("sys/bus/pci/devices/*") if self.read(d / "class").startswith(_DISPLAY)
        ]
        on_bus = _NVIDIA in [self.read(display / "vendor") for display in displays]
        self.nvidia = on_bus or bool(self.driver or self.jetson)

    def read(self, file: str | Path) -> str:
        """Return the text of a file without zero bytes at its end; empty if it cannot be read."""
        try:
            return (self.root / file).read_text(errors="replace").strip().rstrip("\0")
        except OSError:
            return ""

    def _jetson(self) -> dict[str, str]:
        board = self.read("proc/device-tree/model")
        release = re.search(r"R(\d+) \(release\), REVISION: ([\d.]+)", self.read("etc/nv_tegra_release"))
        if not (release or "Jetson" in board or self.kernel.endswith("-tegra")):
            return {}
        pattern = r"^Package: nvidia-jetpack\n(?:\S.*\n| .*\n)*?Version: ([\d.]+)"
        package = re.search(pattern, self.read("var/lib/dpkg/status"), re.MULTILINE)
        jetpack = _JETPACK.get(release[1] if release else ".".join(self.kernel.split(".")[:2]), "")
        return {
            "board": board,
            "L4T": f"{release[1]}.{release[2]}" if release else "",
            "JetPack": package[1] if package else jetpack,
        }

    def packages(self, *names: str) -> str:
        """Return the command that installs packages of Debian or Ubuntu; elsewhere, an instruction."""
        if {"debian", "ubuntu"} & {self.system.get("ID"), *self.system.get("ID_LIKE", "").split()}:
            return _as_root(f"apt install {' '.join(names)}")
        return f"install {' and '.join(names)}"

    def on_host(self, command: str) -> str:
        """Return a command that changes the kernel or a driver, which a container does not have."""
        return f"on the host: sudo {command}" if self.container else _as_root(command)

    def from_jetpack(self, module: str) -> str:
        """Return the command that makes a Python module of JetPack visible, or installs it."""
        if any(self.root.glob(f"usr/lib/python3*/dist-packages/{module}")):
            return f"python3 -m venv --system-site-packages {shlex.quote(sys.prefix)}"
        return self.packages("nvidia-jetpack")


def _as_root(command: str) -> str:
    return command if os.geteuid() == 0 else f"sudo {command}"


def install_extra(name: str) -> str:
    """Return the command that installs an extra of this project."""
    return f"pip install 'idol-deploy[{name}]'"
