"""Probes that hang, crash, raise or print, and a probe of a package that is missing."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from idol_runtime.doctor import probe
from idol_runtime.doctor.probe import Finding, examine
from idol_runtime.doctor.subject import Subject
from samples.waiting import lives, until

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

def stuck(subject):
    pathlib.Path(subject.root / "stuck").write_text(str(os.getpid()))
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


def _run(root: Path, *names: str) -> dict[str, Finding]:
    return examine(Subject(root), [[f"probes_of_test:{name}" for name in names]], limit_s=120)


def test_findings_and_their_states(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    assert _run(root, "good", "raises", "faulty", "missing", "nonsense") == {
        "good": Finding("present", f"~/model.idol of {root}, /home/somebodyfs"),
        "raises": Finding("unknown", "PermissionError: [Errno 13] Permission denied: '/dev/nvidia0'"),
        "faulty": Finding("faulty", "TensorRT 8.6 is too old", {}, "install 10.3"),
        "missing": Finding("missing", "av is not installed", {}, "pip install 'idol-deploy[video]'"),
        "nonsense": Finding("unknown", "AttributeError: module 'probes_of_test' has no attribute 'nonsense'"),
    }


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # of the process that is left
def test_hanging_probes_end_with_their_children_or_are_left(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    times = iter([1000.0])

    def monotonic() -> float:
        """Return the start, and then the end of the time limit, once both probes hang."""
        if (begun := next(times, None)) is not None:
            return begun
        until(lambda: all(path.exists() and path.read_text() for path in (root / "pids", root / "stuck")))
        return 1015.0

    def kill(group: int, number: int, kill: Callable[[int, int], None] = os.killpg) -> None:
        if group != int((root / "stuck").read_text()):  # one that waits for a driver does not end
            kill(group, number)

    groups = [
        [f"probes_of_test:{name}" for name in names] for names in (("faulty", "hang", "good"), ("stuck",))
    ]
    with monkeypatch.context() as patch:
        patch.setattr(os, "killpg", kill)
        patch.setattr(probe, "time", SimpleNamespace(monotonic=monotonic))
        findings = examine(Subject(root), groups, limit_s=15)
    states = {name: finding.state for name, finding in findings.items()}
    assert states == {"faulty": "faulty", "hang": "unknown", "good": "unknown", "stuck": "unknown"}
    assert findings["hang"].summary == "no answer within the time limit"
    os.killpg(int((root / "stuck").read_text()), signal.SIGKILL)

    until(lambda: not any(lives(int(pid)) for pid in (root / "pids").read_text().split()))


def test_no_process_can_be_started(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr("idol_runtime.doctor.probe.subprocess.Popen", refuse)
    finding = Finding("unknown", "no process could be started for the probe")
    assert _run(root, "good", "faulty") == {"good": finding, "faulty": finding}


@pytest.mark.parametrize(
    ("name", "reason"),
    [("crash", "signal 11 (Segmentation fault)"), ("leave", "exit status 3")],
)
def test_a_crash_affects_its_own_group_only(root: Path, name: str, reason: str) -> None:
    groups = [[f"probes_of_test:{name}", "probes_of_test:good"], ["probes_of_test:faulty"]]
    findings = examine(Subject(root), groups, limit_s=120)
    assert findings["faulty"].state == "faulty"
    for lost in (name, "good"):
        assert findings[lost].state == "unknown"
        assert reason in findings[lost].summary
