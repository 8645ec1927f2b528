"""`idol-deploy doctor` on this machine, compared with what other programs say about it."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import re
import shutil
import subprocess
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import jsonschema
import pytest

from idol_runtime.doctor import probe
from idol_runtime.doctor.probe import GROUPS, Finding
from idol_runtime.doctor.subject import Subject
from samples.waiting import LIMIT_S

if TYPE_CHECKING:
    from tests.idol_deploy.conftest import Command

NAMES = [place.partition(":")[2] for group in GROUPS for place in group]
TEXT = {"type": "string"}
FINDING = {
    "type": "object",
    "properties": {
        "state": {"enum": ["present", "missing", "faulty", "unknown"]},
        "summary": {"type": "string", "minLength": 1},
        "details": {"type": "object"},
        "fix": TEXT,
    },
    "required": ["state", "summary", "details", "fix"],
    "additionalProperties": False,
}
SCHEMA = {
    "type": "object",
    "properties": {
        "format": {"const": 1},
        "idol_deploy": TEXT,
        "can_run": {"type": "boolean"},
        "run": {"type": "array", "items": TEXT, "minItems": 1},
        "findings": {
            "type": "object",
            "properties": dict.fromkeys([*NAMES, "bundle"], FINDING),
            "required": NAMES,
            "additionalProperties": False,
        },
        "needed": {"enum": ["", "openvino", "onnxruntime", "tensorrt"]},
    },
    "required": ["format", "idol_deploy", "can_run", "run", "findings", "needed"],
    "additionalProperties": False,
}


def test_this_machine(idol: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    # 1.7 s on two free cores; the limit of a probe is tested without the machine's libraries.
    monkeypatch.setattr(probe, "examine", partial(probe.examine, limit_s=LIMIT_S))
    free = [shutil.disk_usage(tmp_path).free]
    done = idol("doctor", "--json")
    free.append(shutil.disk_usage(tmp_path).free)  # other processes write to the disk
    report = json.loads(done.out)
    jsonschema.validate(report, SCHEMA)
    findings = {name: finding["details"] for name, finding in report["findings"].items()}
    states = {name: finding["state"] for name, finding in report["findings"].items()}
    assert (done.status, report["can_run"]) == (0, True)

    assert findings["cpu"]["cores"] == os.cpu_count()
    assert findings["system"]["memory_mib"] == pytest.approx(
        os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**20, rel=0.01
    )
    assert findings["system"]["kernel"] == platform.release()
    assert min(free) / 2**30 - 1 < findings["disk"]["cache"]["free_gib"] < max(free) / 2**30 + 1
    for name in ("openvino", "onnxruntime"):
        try:
            assert findings[name]["version"] == importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            assert states[name] == "missing"
    assert states["opencv"] == states["pyav"] == "present"
    assert str(Path.home()) not in done.out.replace(str(tmp_path), "")
    if shutil.which("lscpu") and platform.machine() == "x86_64":
        text = subprocess.run(
            ["lscpu"], capture_output=True, text=True, check=True, env={"LC_ALL": "C"}
        ).stdout
        flags = set(re.search(r"Flags:(.*)", text)[1].split())
        names = {"avx2": "avx2", "avx512": "avx512f", "amx_int8": "amx_int8", "avx512_bf16": "avx512_bf16"}
        for feature, flag in names.items():
            assert (feature in findings["cpu"]["features"]) == (flag in flags)


def test_a_bundle_that_cannot_run(idol: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def examine(subject: Subject) -> dict[str, Finding]:
        finding = Finding("faulty", f"{subject.bundle}: no such file")
        missing = Finding("missing", "not installed", {}, "pip install it")
        return {**dict.fromkeys(NAMES, missing), "bundle": finding}

    monkeypatch.setattr(probe, "examine", examine)
    done = idol("doctor", "none.idol")
    assert done.status == 1
    assert "\n\nrun: nothing: none.idol: no such file\n" in done.out
    assert "\nneeded:\n" in done.out
