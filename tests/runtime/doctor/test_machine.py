"""System, processor, clocks and disks, of files of several machines, of this one, and of stand-ins for nvidia-smi."""

from __future__ import annotations

import ctypes
import os
import shutil
from collections import namedtuple
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from idol_runtime.doctor import machine
from idol_runtime.doctor.probe import Finding
from idol_runtime.doctor.subject import Subject
from idol_runtime.errors import BackendError
from tests.runtime.doctor.conftest import ORIN, SERVER

if TYPE_CHECKING:
    from tests.runtime.doctor.conftest import MakeRoot, Script


def test_system_and_processor_of_a_jetson(make_root: MakeRoot, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(6))
    subject = Subject(make_root(ORIN))
    assert machine.cpu(subject).summary == "Cortex-A78AE, 6 cores, dotprod neon"
    summary = machine.system(subject).summary
    assert "7619 MiB of memory, board NVIDIA Jetson Orin Nano Developer Kit, L4T 39.2.1, JetPack 7" in summary


def test_limits_of_a_container(make_root: MakeRoot, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(4))
    subject = Subject(make_root(SERVER))
    assert machine.cpu(subject).summary == "Neoverse V1, 4 cores (1.5 usable), bf16 dotprod i8mm neon sve"
    assert machine.system(subject).summary.endswith(", in a container (podman)")


def test_power_mode_and_clocks(make_root: MakeRoot, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    finding = machine.power(Subject(make_root(ORIN)))
    assert finding.summary.startswith("power mode 1 (25W) (MAXN is faster and needs more power), ")
    assert finding.summary.endswith("CPU governor schedutil, CPU 730 MHz")
    assert finding.fix == "sudo nvpmodel -m 2"
    assert finding.details["power_modes"] == {"15W": 0, "25W": 1, "MAXN_SUPER": 2}
    fixed = {name: "1510400" for name in ORIN if name.endswith("_freq")}
    root = make_root({**ORIN, **fixed, "var/lib/nvpmodel/status": "pmode:0002"})
    assert machine.power(Subject(root)).fix == ""
    assert "clocks fixed" in machine.power(Subject(root)).summary
    assert machine.power(Subject(root.parent)).state == "unknown"


H200 = "NVIDIA H200, Enabled, 345, 1980, 700.00, 700.00, 143771"
SLOW = "NVIDIA L4, Disabled, 210, 2040, 60.00, 72.00, 23034"
ORIN_GPU = "Orin (nvgpu), [N/A], [N/A], [N/A], [N/A], [Not Supported], [N/A]"


def test_clocks_of_gpus(script: Script, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    script("nvidia-smi", f'echo "$@" > {tmp_path}/arguments; echo "{H200}"; echo "{SLOW}"')
    finding = machine.gpu_clocks(Subject(tmp_path))
    assert finding.summary == (
        "NVIDIA H200 at 345 of 1980 MHz, power limit 700 of 700 W, 143771 MiB, "
        "NVIDIA L4 at 210 of 2040 MHz, power limit 60 of 72 W, 23034 MiB"
    )
    assert finding.fix == "sudo nvidia-smi -i 1 -pl 72"
    values = ("NVIDIA L4", "Disabled", 210, 2040, 60, 72, 23034)
    assert tuple(finding.details["gpus"][1].values()) == values
    query = "name,persistence_mode,clocks.sm,clocks.max.sm,power.limit,power.default_limit,memory.total"
    expected = f"--query-gpu={query} --format=csv,noheader,nounits\n"
    assert (tmp_path / "arguments").read_text() == expected


@pytest.mark.parametrize(
    ("answer", "state", "summary"),
    [
        (
            f"echo '{ORIN_GPU}'",
            "present",
            "Orin (nvgpu) at ? of ? MHz, power limit ? of ? W, ? MiB",
        ),
        (
            "echo 'NVIDIA L4, Enabled, [Unknown Error], 2040, ERR!, 72.00, 23034'",
            "present",
            "NVIDIA L4 at ? of 2040 MHz, power limit ? of 72 W, 23034 MiB",
        ),
        ("printf '\\377\\376 a, b\\n<html>'", "unknown", "nvidia-smi lists no GPU"),
        ("true", "unknown", "nvidia-smi lists no GPU"),
        (
            "echo No devices were found; exit 6",
            "faulty",
            "nvidia-smi fails with exit status 6: No devices were found",
        ),
        ("sleep 60 & wait", "faulty", "nvidia-smi does not end in 0.5 s"),
    ],
    ids=["N/A", "errors", "garbage", "nothing", "no devices", "hangs"],
)
def test_answers_without_clocks(
    script: Script, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, answer: str, state: str, summary: str
) -> None:
    monkeypatch.setattr(machine, "_TOOL_SECONDS", 0.5 if "sleep" in answer else 30)
    script("nvidia-smi", answer)
    try:
        finding = machine.gpu_clocks(Subject(tmp_path))
    except BackendError as error:  # as `probe` does
        finding = Finding("faulty", str(error))
    assert (finding.state, finding.summary, finding.fix) == (state, summary, "")


def test_no_nvidia_smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert machine.gpu_clocks(Subject(tmp_path)).state == "missing"


@pytest.mark.parametrize(("state", "expected"), [(0, "present"), (5, "faulty"), (-1, "unknown")])
def test_clock(make_root: MakeRoot, monkeypatch: pytest.MonkeyPatch, state: int, expected: str) -> None:
    class Library:
        @staticmethod
        def adjtimex(buffer: ctypes.Array[ctypes.c_char]) -> int:
            assert bytes(buffer[:4]) == b"\0\0\0\0"  # reads, and sets nothing
            return state

    monkeypatch.setattr(ctypes, "CDLL", lambda *_, **__: Library)
    finding = machine.clock(Subject(make_root({".dockerenv": ""})))
    assert finding.state == expected
    assert finding.fix == "on the host: sudo timedatectl set-ntp true" * (state == 5)


def test_disks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "not" / "yet"))
    finding = machine.disk(Subject(Path("/")))
    assert finding.fix == ""
    assert finding.details["cache"]["free_gib"] == pytest.approx(
        shutil.disk_usage(tmp_path).free / 2**30, abs=0.5
    )
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(2**40, 2**40, 2**28))
    finding = machine.disk(Subject(Path("/")))
    assert (finding.state, "--retain" in finding.fix) == ("faulty", True)
    assert "cache 0.2 GiB free" in finding.summary
