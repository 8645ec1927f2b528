"""Releases of Jetsons, containers, GPUs, and commands that are right for a machine."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING

import pytest

from idol_runtime.doctor.subject import Subject
from tests.runtime.doctor.conftest import ORIN, ORIN_6, SERVER

if TYPE_CHECKING:
    from tests.runtime.doctor.conftest import MakeRoot

DRIVER = "NVRM version: NVIDIA UNIX Open Kernel Module for aarch64  580.00  Release Build"
AMD = {"sys/bus/pci/devices/0/vendor": "0x1002\n", "sys/bus/pci/devices/0/class": "0x030000\n"}
SOUND = {"sys/bus/pci/devices/0/vendor": "0x10de\n", "sys/bus/pci/devices/0/class": "0x040300\n"}


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
    found = Subject(make_root(files)).jetson
    assert jetson.items() <= found.items()
    assert bool(jetson) == bool(found)


@pytest.mark.parametrize(
    ("file", "kind"),
    [
        (".dockerenv", "docker"),
        ("run/.containerenv", "podman"),
        ("run/systemd/container", "systemd"),
        ("var/run/secrets/kubernetes.io/token", "kubernetes"),
        ("etc/hosts", ""),
    ],
)
def test_containers(make_root: MakeRoot, file: str, kind: str) -> None:
    assert Subject(make_root({file: ""})).container == kind


@pytest.mark.parametrize(
    ("files", "nvidia"),
    [
        (SERVER, True),
        (ORIN, True),
        ({"proc/driver/nvidia/version": DRIVER}, True),
        (AMD, False),
        (SOUND, False),
        ({}, False),
    ],
)
def test_gpus(make_root: MakeRoot, files: Mapping[str, str], nvidia: bool) -> None:
    assert Subject(make_root(files)).nvidia is nvidia
    assert Subject(make_root({"proc/driver/nvidia/version": DRIVER})).driver == "580.00"


def test_commands(make_root: MakeRoot, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(sys, "prefix", "/opt/v env")
    fedora, orin = Subject(make_root(SERVER)), Subject(make_root(ORIN))
    assert orin.packages("g++", "cmake") == "sudo apt install g++ cmake"
    assert fedora.packages("g++", "cmake") == "install g++ and cmake"
    assert orin.from_jetpack("cv2") == "sudo apt install nvidia-jetpack"
    orin = Subject(make_root({"usr/lib/python3.12/dist-packages/cv2/__init__.py": ""}))
    assert orin.from_jetpack("cv2") == "python3 -m venv --system-site-packages '/opt/v env'"
    assert fedora.on_host("nvpmodel -m 2") == "on the host: sudo nvpmodel -m 2"
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert orin.packages("g++") == "apt install g++"
