"""Probes of the system, processor, memory, clocks and disks."""

import ctypes
import datetime
import os
import platform
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

from idol_plugins.libraries import user_cache
from idol_runtime.bench.sensors import Sensors
from idol_runtime.doctor.probe import Finding
from idol_runtime.doctor.subject import Subject
from idol_runtime.errors import BackendError
from idol_runtime.processor import processor_features, processor_name

__all__ = ["clock", "cpu", "disk", "gpu_clocks", "power", "system", "tool_output"]

_TIME_ERROR = 5
_LEAST_FREE_GIB = 1.0
_TOOL_SECONDS = 10.0
# Fields of nvidia-smi by their keys in `details`, two texts and then numbers; old drivers have them as well.
_GPU_FIELDS = {
    "name": "name",
    "persistence": "persistence_mode",
    "mhz": "clocks.sm",
    "max_mhz": "clocks.max.sm",
    "limit_w": "power.limit",
    "default_limit_w": "power.default_limit",
    "memory_mib": "memory.total",
}


def system(subject: Subject) -> Finding:
    """Examine the operating system, the container and a Jetson's releases."""
    memory = re.search(r"^MemTotal:\s+(\d+) kB", subject.read("proc/meminfo"), re.MULTILINE)
    details: dict[str, Any] = {
        "os": subject.system.get("PRETTY_NAME", platform.system()),
        "kernel": subject.kernel,
        "machine": platform.machine(),
        "python": platform.python_version(),
        "memory_mib": int(memory[1]) // 1024 if memory else None,
        "container": subject.container,
        "jetson": subject.jetson,
    }
    text = "{os}, kernel {kernel}, {machine}, Python {python}, {memory_mib} MiB of memory".format_map(details)
    text += "".join(f", {key} {value}" for key, value in subject.jetson.items() if value)
    text += f", in a container ({subject.container})" if subject.container else ""
    return Finding("present", text, details)


def cpu(subject: Subject) -> Finding:
    """Examine the processor: name, cores and instruction sets."""
    cpuinfo = subject.root / "proc/cpuinfo"
    total = len(re.findall(r"^processor\s*:", cpuinfo.read_text(), re.MULTILINE))
    usable = float(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else total)
    quota = subject.read("sys/fs/cgroup/cpu.max").split()
    if len(quota) == 2 and quota[0] != "max":
        usable = min(usable, int(quota[0]) / int(quota[1]))
    name, features = processor_name(cpuinfo), processor_features(cpuinfo)
    details = {"name": name, "cores": total, "usable_cores": usable, "features": list(features)}
    limit = "" if usable >= total else f" ({usable:g} usable)"
    return Finding("present", f"{name}, {total} cores{limit}, {' '.join(features) or 'no vectors'}", details)


def power(subject: Subject) -> Finding:
    """Examine CPU governor and clocks, and a Jetson's GPU clock and power mode."""
    sensors, parts, fix = Sensors(root=subject.root), [], ""
    details: dict[str, Any] = {name: round(value, 1) for name, value in sensors.read().items()}
    if mode := sensors.facts().get("power_mode"):
        modes = re.findall(r"POWER_MODEL\s+ID=(\d+)\s+NAME=(\S+)", subject.read("etc/nvpmodel.conf"))
        details |= {"power_mode": mode, "power_modes": {name: int(number) for number, name in modes}}
        parts.append(f"power mode {mode}")
        fastest = next((number for number, name in modes if name.startswith("MAXN")), "")
        if fastest not in ("", mode.partition(" ")[0]):
            parts[0] += " (MAXN is faster and needs more power)"
            fix = subject.on_host(f"nvpmodel -m {fastest}")
    cpus = list(subject.root.glob("sys/devices/system/cpu/cpu[0-9]*/cpufreq"))
    if governors := sorted({subject.read(cpu / "scaling_governor") for cpu in cpus} - {""}):
        limits = [[subject.read(cpu / f"scaling_{end}_freq") for end in ("min", "max")] for cpu in cpus]
        details |= {"governors": governors, "clocks_fixed": all(low == high for low, high in limits)}
        parts.append(f"CPU governor {', '.join(governors)}{', clocks fixed' * details['clocks_fixed']}")
    parts += [f"{key[:3].upper()} {details[key]:.0f} MHz" for key in ("cpu_mhz", "gpu_mhz") if key in details]
    if not parts:
        return Finding("unknown", "the kernel states neither a CPU clock nor a power mode", details)
    return Finding("present", ", ".join(parts), details, fix)


def gpu_clocks(subject: Subject) -> Finding:
    """Examine clocks, power limits and memory of NVIDIA GPUs with nvidia-smi, which has few of them on a Jetson."""
    if shutil.which("nvidia-smi") is None:
        return Finding("missing", "nvidia-smi is not installed")
    query = f"--query-gpu={','.join(_GPU_FIELDS.values())}"
    lines = tool_output("nvidia-smi", query, "--format=csv,noheader,nounits").splitlines()
    rows = [row for line in lines if len(row := line.split(", ")) == len(_GPU_FIELDS)]
    gpus: list[dict[str, Any]] = [
        dict(zip(_GPU_FIELDS, (*row[:2], *map(_number, row[2:])), strict=True)) for row in rows
    ]
    line = "{name} at {mhz} of {max_mhz} MHz, power limit {limit_w} of {default_limit_w} W, {memory_mib} MiB"
    text = ", ".join(line.format_map(gpu).replace("None", "?") for gpu in gpus)
    limits = [(gpu["limit_w"], gpu["default_limit_w"]) for gpu in gpus]
    low = [
        (index, default) for index, (limit, default) in enumerate(limits) if limit and limit < (default or 0)
    ]
    fix = subject.on_host("nvidia-smi -i {} -pl {}".format(*low[0])) if low else ""
    return Finding("present" if gpus else "unknown", text or "nvidia-smi lists no GPU", {"gpus": gpus}, fix)


def _number(text: str) -> int | None:
    """Return a value of nvidia-smi, rounded; None for `[N/A]` and the like."""
    return round(float(text)) if re.fullmatch(r"\d+(\.\d+)?", text) else None


def tool_output(*command: str) -> str:
    """Return the output of a tool.

    Raises:
        BackendError: it fails, or does not end in time.
    """
    try:
        done = subprocess.run(command, capture_output=True, timeout=_TOOL_SECONDS, check=False)  # noqa: S603
    except subprocess.TimeoutExpired as error:
        raise BackendError(f"{command[0]} does not end in {_TOOL_SECONDS:g} s") from error
    output = done.stdout.decode(errors="replace")
    if done.returncode:
        reason = " ".join(output.split())[:200]
        raise BackendError(f"{command[0]} fails with exit status {done.returncode}: {reason}")
    return output


def clock(subject: Subject) -> Finding:
    """Examine the system's time, and whether the kernel states that it is synchronised with a time server."""
    buffer = ctypes.create_string_buffer(512)  # struct timex; its `modes` are 0: read only
    state = int(ctypes.CDLL(None, use_errno=True).adjtimex(buffer))
    if state < 0:
        return Finding("unknown", f"adjtimex: {os.strerror(ctypes.get_errno())}")
    now, details = datetime.datetime.now(datetime.timezone.utc), {"synchronised": state != _TIME_ERROR}
    if state == _TIME_ERROR:
        fix = subject.on_host("timedatectl set-ntp true")
        return Finding("faulty", f"{now:%Y-%m-%d %H:%M} UTC, not synchronised", details, fix)
    return Finding("present", f"{now:%Y-%m-%d %H:%M} UTC, synchronised", details)


def disk(_: Subject) -> Finding:
    """Examine the space of the current folder and of the cache."""
    details: dict[str, Any] = {}
    texts = []
    for name, folder in (("current folder", Path.cwd()), ("cache", user_cache())):
        nearest = next(path for path in (folder, *folder.parents) if path.exists())
        free, writable = shutil.disk_usage(nearest).free / 2**30, os.access(nearest, os.W_OK | os.X_OK)
        details[name] = {"path": str(folder), "free_gib": round(free, 2), "writable": writable}
        texts.append(f"{name} {free:.1f} GiB free{'' if writable else ' (read-only)'}")
    low = min(entry["free_gib"] for entry in details.values()) < _LEAST_FREE_GIB
    fix = "free some space, and bound the outputs of `run` with --rotate and --retain"
    return Finding("faulty" if low else "present", ", ".join(texts), details, fix * low)
