"""Probes of the system, processor, memory, clocks and disks, from files of the kernel."""

import ctypes
import datetime
import os
import platform
import re
import shutil
import sys
from pathlib import Path
from typing import Any

from idol_plugins.libraries import user_cache
from idol_runtime.bench.sensors import Sensors
from idol_runtime.doctor.probe import Finding, Subject
from idol_runtime.processor import processor_features, processor_name

__all__ = ["clock", "cpu", "disk", "memory", "power", "read", "system"]

# JetPack by the release of Jetson Linux and, for containers that hide it, by the kernel.
_JETPACK = {"35": "5", "36": "6", "38": "7", "39": "7", "5.10": "5", "5.15": "6", "6.8": "7"}
_TIME_ERROR, _STA_UNSYNC, _STATUS_OFFSET = 5, 0x40, 5 * ctypes.sizeof(ctypes.c_long)
_LEAST_FREE_GIB = 1.0


def read(path: Path) -> str:
    """Return the text of a file without zero bytes at its end; empty if the file is missing."""
    try:
        return path.read_text(errors="replace").strip().rstrip("\0")
    except (FileNotFoundError, NotADirectoryError):
        return ""


def system(subject: Subject) -> Finding:
    """Examine the operating system, the container and a Jetson's releases."""
    root = subject.root
    names = dict(re.findall(r'^(\w+)="?(.*?)"?$', read(root / "etc/os-release"), re.MULTILINE))
    kernel = read(root / "proc/sys/kernel/osrelease") or platform.release()
    details: dict[str, Any] = {
        "os": names.get("PRETTY_NAME", platform.system()),
        "os_ids": [names.get("ID", ""), *names.get("ID_LIKE", "").split()],
        "kernel": kernel,
        "machine": platform.machine(),
        "python": platform.python_version(),
        "prefix": sys.prefix,
        "root": hasattr(os, "geteuid") and os.geteuid() == 0,
        "container": _container(root),
        "jetson": _jetson(root, kernel),
    }
    parts = [f"{details['os']}, kernel {kernel}, {details['machine']}, Python {details['python']}"]
    parts += [f"{key} {value}" for key, value in details["jetson"].items() if value]
    if details["container"]:
        parts.append(f"in a container ({details['container']})")
    return Finding("present", ", ".join(parts), details)


def _container(root: Path) -> str:
    """Return the kind of container that this process runs in; empty outside of one."""
    if kind := read(root / "run/systemd/container"):
        return kind
    for name, kind in ((".dockerenv", "docker"), ("run/.containerenv", "podman")):
        if (root / name).exists():
            return kind
    match = re.search(r"kubepods|lxc|docker|libpod", read(root / "proc/1/cgroup"))
    return match[0] if match else ""


def _jetson(root: Path, kernel: str) -> dict[str, str]:
    """Return a Jetson's board, release of Jetson Linux (L4T) and JetPack; empty for another machine."""
    board = read(root / "proc/device-tree/model")
    release = re.search(r"R(\d+) \(release\), REVISION: ([\d.]+)", read(root / "etc/nv_tegra_release"))
    if not (release or "Jetson" in board or kernel.endswith("-tegra")):
        return {}
    status = read(root / "var/lib/dpkg/status")
    package = re.search(
        r"^Package: nvidia-jetpack\n(?:\S.*\n| .*\n)*?Version: ([\d.]+)", status, re.MULTILINE
    )
    jetpack = _JETPACK.get(release[1] if release else ".".join(kernel.split(".")[:2]), "")
    return {
        "board": board,
        "L4T": f"{release[1]}.{release[2]}" if release else "",
        "JetPack": package[1] if package else jetpack,
    }


def cpu(subject: Subject) -> Finding:
    """Examine the processor: name, cores and instruction sets."""
    cpuinfo = subject.root / "proc/cpuinfo"
    total = len(re.findall(r"^processor\s*:", cpuinfo.read_text(), re.MULTILINE))
    usable = float(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else total)
    quota = read(subject.root / "sys/fs/cgroup/cpu.max").split()
    if len(quota) == 2 and quota[0] != "max":
        usable = min(usable, int(quota[0]) / int(quota[1]))
    name, features = processor_name(cpuinfo), processor_features(cpuinfo)
    details = {"name": name, "cores": total, "usable_cores": usable, "features": list(features)}
    limit = "" if usable >= total else f" ({usable:g} usable)"
    return Finding("present", f"{name}, {total} cores{limit}, {' '.join(features) or 'no vectors'}", details)


def memory(subject: Subject) -> Finding:
    """Examine the memory of the machine and the limit of the container."""
    text = (subject.root / "proc/meminfo").read_text()
    values = {name: int(kib) / 1024 for name, kib in re.findall(r"^(\w+):\s+(\d+) kB", text, re.MULTILINE)}
    total, available, swap = values["MemTotal"], values["MemAvailable"], values.get("SwapTotal", 0)
    details = {"total_mib": round(total), "available_mib": round(available), "swap_mib": round(swap)}
    folder = subject.root / "sys/fs/cgroup"
    limit = read(folder / "memory.max") or read(folder / "memory/memory.limit_in_bytes")
    text = f"{available / 1024:.1f} GiB available of {total / 1024:.1f} GiB"
    if limit.isdecimal() and int(limit) / 2**20 < total:
        details["limit_mib"] = int(limit) // 2**20
        text += f", limited to {int(limit) / 2**30:.1f} GiB"
    return Finding("present", text, details)


def power(subject: Subject) -> Finding:
    """Examine CPU governor and clocks, and a Jetson's power mode."""
    sensors = Sensors(root=subject.root)
    cpus = sorted(subject.root.glob("sys/devices/system/cpu/cpu[0-9]*/cpufreq"))
    details: dict[str, Any] = {name: round(value, 1) for name, value in sensors.read().items()}
    if mode := sensors.facts().get("power_mode"):
        details["power_mode"] = mode
    governors = sorted({read(cpu / "scaling_governor") for cpu in cpus} - {""})
    if governors:
        details["governors"] = governors
        details["clocks_fixed"] = all(
            read(c / "scaling_min_freq") == read(c / "scaling_max_freq") for c in cpus
        )
    modes = re.findall(r"POWER_MODEL\s+ID=(\d+)\s+NAME=(\S+)", read(subject.root / "etc/nvpmodel.conf"))
    if modes:
        details["power_modes"] = {name: int(number) for number, name in modes}
    parts = []
    if "power_mode" in details:
        parts.append(f"power mode {details['power_mode']}")
    if governors:
        parts.append(f"CPU governor {', '.join(governors)}{', clocks fixed' * details['clocks_fixed']}")
    parts += [
        f"{name[:3].upper()} {details[name]:.0f} MHz" for name in ("cpu_mhz", "gpu_mhz") if name in details
    ]
    if not parts:
        return Finding("unknown", "the kernel states neither a CPU clock nor a power mode", details)
    return Finding("present", ", ".join(parts), details)


def clock(subject: Subject) -> Finding:
    """Examine the system clock, and whether it is synchronised with a time server."""
    now = datetime.datetime.now(datetime.timezone.utc)
    text = f"{now:%Y-%m-%d %H:%M} UTC"
    details: dict[str, Any] = {"utc": now.isoformat(timespec="seconds"), "synchronised": None}
    buffer = ctypes.create_string_buffer(512)  # struct timex; its `modes` are 0: read only
    try:
        state = int(ctypes.CDLL(None, use_errno=True).adjtimex(buffer))
    except AttributeError:
        return Finding("unknown", f"{text}; this system has no adjtimex", details)
    if state < 0:
        return Finding("unknown", f"{text}; adjtimex: {os.strerror(ctypes.get_errno())}", details)
    status = ctypes.c_int.from_buffer(buffer, _STATUS_OFFSET).value
    synchronised = details["synchronised"] = state != _TIME_ERROR and not status & _STA_UNSYNC
    if not synchronised:
        return Finding("faulty", f"{text}, not synchronised; sudo timedatectl set-ntp true", details)
    return Finding("present", f"{text}, synchronised", details)


def disk(subject: Subject) -> Finding:
    """Examine the space of the current folder, the cache and the service's state folder."""
    folders = {"current folder": Path.cwd(), "cache": user_cache()}
    if state := os.environ.get("STATE_DIRECTORY"):  # set by systemd
        folders["state folder"] = Path(state.split(":")[0])
    details: dict[str, Any] = {}
    for name, folder in folders.items():
        nearest = next(path for path in (folder, *folder.parents) if path.exists())
        free = shutil.disk_usage(nearest).free / 2**30
        details[name] = {
            "path": str(folder),
            "free_gib": round(free, 2),
            "writable": os.access(nearest, os.W_OK | os.X_OK),
        }
    texts = [
        f"{name} {entry['free_gib']:.1f} GiB free{'' if entry['writable'] else ' (read-only)'}"
        for name, entry in details.items()
    ]
    low = min(entry["free_gib"] for entry in details.values()) < _LEAST_FREE_GIB
    fix = "; free some space, and bound the outputs of `run` with --rotate and --retain"
    return Finding("faulty" if low else "present", ", ".join(texts) + fix * low, details)
