"""System, processor, memory, clocks and disks, of files of several machines and of this one."""

from __future__ import annotations

import ctypes
import os
import shutil
from collections import namedtuple
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from idol_runtime.doctor import machine
from idol_runtime.doctor.probe import Subject
from tests.runtime.doctor.conftest import ORIN, ORIN_6, SERVER

if TYPE_CHECKING:
    from tests.runtime.doctor.conftest import MakeRoot


@pytest.mark.parametrize(
    ("files", "jetson"),
    [
        (ORIN, {"L4T": "39.2.1", "JetPack": "7"}),
        (ORIN_6, {"L4T": "36.4.3", "JetPack": "6.2.1"}),
        # A container hides all but the kernel.
        ({"proc/sys/kernel/osrelease": "5.15.148-tegra\n"}, {"board": "", "L4T": "", "JetPack": "6"}),
        (SERVER, {}),
    ],
    ids=["JetPack 7", "JetPack 6", "container", "server"],
)
def test_releases_of_a_jetson(
    make_root: MakeRoot, files: Mapping[str, str], jetson: Mapping[str, str]
) -> None:
    finding = machine.system(Subject(make_root(files)))
    assert jetson.items() <= finding.details["jetson"].items()
    assert bool(jetson) == bool(finding.details["jetson"])


@pytest.mark.parametrize(
    ("file", "text", "kind"),
    [
        (".dockerenv", "", "docker"),
        ("run/.containerenv", "", "podman"),
        ("run/systemd/container", "systemd-nspawn\n", "systemd-nspawn"),
        ("proc/1/cgroup", "0::/kubepods.slice/pod1\n", "kubepods"),
        ("proc/1/cgroup", "0::/init.scope\n", ""),
    ],
)
def test_containers(make_root: MakeRoot, file: str, text: str, kind: str) -> None:
    assert machine.system(Subject(make_root({file: text}))).details["container"] == kind


def test_processor_and_memory_of_a_jetson(make_root: MakeRoot, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(6))
    subject = Subject(make_root(ORIN))
    assert machine.cpu(subject).summary == "Cortex-A78AE, 6 cores, dotprod neon"
    assert machine.memory(subject).summary == "4.9 GiB available of 7.4 GiB"
    assert machine.memory(subject).details == {"total_mib": 7620, "available_mib": 5000, "swap_mib": 3810}


def test_limits_of_a_container(make_root: MakeRoot, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(4))
    subject = Subject(make_root(SERVER))
    assert machine.cpu(subject).summary == "Neoverse V1, 4 cores (1.5 usable), bf16 dotprod i8mm neon sve"
    assert machine.memory(subject).details["limit_mib"] == 1024


def test_power_mode_and_clocks(make_root: MakeRoot) -> None:
    finding = machine.power(Subject(make_root(ORIN)))
    assert finding.summary == "power mode 1 (25W), CPU governor schedutil, CPU 730 MHz"
    assert finding.details["power_modes"] == {"15W": 0, "25W": 1, "MAXN_SUPER": 2}
    fixed = {name: "1510400" for name in ORIN if name.endswith("_freq")}
    assert "clocks fixed" in machine.power(Subject(make_root({**ORIN, **fixed}))).summary
    assert machine.power(Subject(make_root(ORIN).parent)).state == "unknown"


@pytest.mark.parametrize(
    ("state", "status", "expected"),
    [(0, 0x2001, "present"), (5, 0x2041, "faulty"), (0, 0x40, "faulty"), (-1, 0, "unknown")],
)
def test_clock(monkeypatch: pytest.MonkeyPatch, state: int, status: int, expected: str) -> None:
    class Library:
        @staticmethod
        def adjtimex(buffer: ctypes.Array[ctypes.c_char]) -> int:
            assert bytes(buffer[:4]) == b"\0\0\0\0"  # reads, and sets nothing
            ctypes.c_int.from_buffer(buffer, 40).value = status  # struct timex of 64-bit Linux
            return state

    monkeypatch.setattr(ctypes, "CDLL", lambda *_, **__: Library)
    assert machine.clock(Subject(Path("/"))).state == expected


def test_disks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "not" / "yet"))
    monkeypatch.setenv("STATE_DIRECTORY", "/var/lib/idol:/var/lib/other")
    finding = machine.disk(Subject(Path("/")))
    assert finding.details["state folder"]["path"] == "/var/lib/idol"
    assert finding.details["cache"]["free_gib"] == pytest.approx(
        shutil.disk_usage(tmp_path).free / 2**30, abs=0.5
    )
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(2**40, 2**40, 2**28))
    finding = machine.disk(Subject(Path("/")))
    assert finding.state == "faulty"
    assert "cache 0.2 GiB free" in finding.summary
