"""Probes that hang, crash, raise or print, and a probe of a package that is missing."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from idol_runtime.doctor.probe import Finding, Subject, examine

PROBES = """
import ctypes, os, pathlib, subprocess, time
from idol_runtime.doctor.probe import Finding
from idol_runtime.errors import BackendError, MissingDependencyError

def good(subject):
    print("a library prints this")
    return Finding("present", f"{pathlib.Path.home()}/model.idol of {subject.root}, {pathlib.Path.home()}fs")

def hang(subject):
    pathlib.Path(subject.root / "pids").write_text(f"{os.getpid()} {subprocess.Popen(['sleep', '60']).pid}")
    time.sleep(60)

def crash(subject):
    ctypes.string_at(0)

def leave(subject):
    os._exit(3)

def raises(subject):
    raise PermissionError(13, "Permission denied", "/dev/nvidia0")

def faulty(subject):
    raise BackendError("TensorRT 8.6 is too old; install 10.3")

def missing(subject):
    raise MissingDependencyError("av", "video", "reading")
"""


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "probes_of_test.py").write_text(PROBES)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def _run(root: Path, *names: str, limit_s: float = 10.0) -> dict[str, Finding]:
    group = [f"probes_of_test:{name}" for name in names]
    return examine(Subject(root), [group], limit_s)


def test_findings_and_their_states(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    assert _run(root, "good", "raises", "faulty", "missing", "nonsense") == {
        "good": Finding("present", f"~/model.idol of {root}, /home/somebodyfs"),
        "raises": Finding("unknown", "PermissionError: [Errno 13] Permission denied: '/dev/nvidia0'"),
        "faulty": Finding("faulty", "TensorRT 8.6 is too old; install 10.3"),
        "missing": Finding("missing", "av is not installed"),
        "nonsense": Finding("unknown", "AttributeError: module 'probes_of_test' has no attribute 'nonsense'"),
    }


def test_a_hanging_probe_ends_with_its_children_and_keeps_earlier_findings(root: Path) -> None:
    begun = time.monotonic()
    findings = _run(root, "faulty", "hang", "good", limit_s=0.6)
    assert time.monotonic() - begun < 3
    assert [finding.state for finding in findings.values()] == ["faulty", "unknown", "unknown"]
    assert findings["hang"].summary == "no answer within the time limit"
    for pid in (root / "pids").read_text().split():
        for _ in range(100):
            state = Path(f"/proc/{pid}/stat")
            if not state.exists() or state.read_text().split()[2] == "Z":
                break
            time.sleep(0.02)
        else:
            os.kill(int(pid), 9)
            pytest.fail("a process of the probe goes on")


@pytest.mark.parametrize(
    ("name", "reason"),
    [("crash", "signal 11 (Segmentation fault)"), ("leave", "exit status 3")],
)
def test_a_crash_affects_its_own_group_only(root: Path, name: str, reason: str) -> None:
    groups = [[f"probes_of_test:{name}", "probes_of_test:good"], ["probes_of_test:faulty"]]
    findings = examine(Subject(root), groups)
    assert findings["faulty"].state == "faulty"
    for lost in (name, "good"):
        assert findings[lost].state == "unknown"
        assert reason in findings[lost].summary
