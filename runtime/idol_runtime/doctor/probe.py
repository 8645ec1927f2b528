"""Probes of the machine, in child processes with time limits: a driver that crashes or hangs affects one probe only."""

import contextlib
import importlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec

from idol_runtime.doctor.subject import Subject, install_extra
from idol_runtime.errors import IdolError, MissingDependencyError
from idol_runtime.json_text import to_json

__all__ = ["GROUPS", "Finding", "examine", "main"]

_CHILD = "import sys; sys.path[:] = sys.argv.pop().split('\\n'); from {} import main; main(sys.argv[1:])"


class Finding(msgspec.Struct, frozen=True):
    """The result of a probe.

    Attributes:
        state: `present`; `missing`; `faulty`: present but unusable; `unknown`: it could not be found out.
        summary: the result in one line; the reason if it is `faulty` or `unknown`.
        details: the values by name.
        fix: command that gets what is missing or makes it faster, or an instruction; empty without one.
    """

    state: Literal["present", "missing", "faulty", "unknown"]
    summary: str
    details: dict[str, Any] = {}
    fix: str = ""


def _group(module: str, *functions: str) -> tuple[str, ...]:
    return tuple(f"{__package__}.{module}:{function}" for function in functions)


# Probes of one child process each, as `module:function`; a function takes a `Subject`, and its name is the finding's.
# Findings before a fault of their process are kept, so that the probe of something that may hang or crash comes late.
GROUPS = (
    _group("machine", "system", "cpu", "power", "clock", "disk"),
    _group("machine", "gpu_clocks"),
    _group("engines", "library_image", "gpu"),
    _group("engines", "tensorrt", "library_tensorrt"),
    _group("engines", "openvino", "library_openvino"),
    _group("engines", "onnxruntime", "library_onnxruntime"),
    _group("media", "opencv"),
    _group("media", "pyav"),
    _group("media", "serve", "mqtt", "cameras", "gstreamer"),
)
_BUNDLE = _group("engines", "bundle")


def examine(
    subject: Subject, groups: Sequence[Sequence[str]] = GROUPS, limit_s: float = 15.0, bundle_s: float = 180.0
) -> dict[str, Finding]:
    """Run the probes and return their findings by name, in the order of the groups; never raises, never hangs.

    Args:
        subject: what the probes examine.
        groups: probes of each child process; that of the bundle is added.
        limit_s: time limit of a process in seconds.
        bundle_s: time limit of the process that loads the bundle.
    """
    jobs = [(group, limit_s) for group in groups] + [(_BUNDLE, bundle_s)] * bool(subject.bundle)
    lost, begun = Finding("unknown", "no process could be started for the probe"), time.monotonic()
    findings = {_name(place): lost for group, _ in jobs for place in group}
    running: list[tuple[Sequence[str], subprocess.Popen[bytes], float]] = []
    try:
        with contextlib.suppress(OSError):  # no memory or no process left
            for group, seconds in jobs:
                running.append((group, _start(group, subject), begun + seconds))
        for group, process, until in running:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, until - time.monotonic()))
            findings |= _finish(group, process)
    finally:
        for _, process, _ in running:
            _kill(process)
    return findings


def _name(place: str) -> str:
    return place.partition(":")[2]


def _start(group: Sequence[str], subject: Subject) -> "subprocess.Popen[bytes]":
    arguments = [str(subject.root), subject.bundle, *group, "\n".join(sys.path)]
    return subprocess.Popen(  # noqa: S603 - our own interpreter, a constant program
        [sys.executable, "-c", _CHILD.format(__name__), *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # with its own children, it is killed as a whole
    )


def _finish(group: Sequence[str], process: "subprocess.Popen[bytes]") -> dict[str, Finding]:
    """Return the findings of a process that has ended or is to be killed."""
    status = process.poll()
    _kill(process)
    assert process.stdout is not None
    os.set_blocking(process.stdout.fileno(), False)  # a process that cannot be killed holds the pipe open
    output = process.stdout.read() or b""
    process.stdout.close()
    if status is None:
        reason = "no answer within the time limit"
    elif status < 0:
        reason = f"the probe was ended by signal {-status} ({signal.strsignal(-status)})"
    else:
        reason = f"the probe ended with exit status {status}"
    lines = output.split(b"\n")[:-1]  # a line is complete with its line break
    found = dict(msgspec.json.decode(line, type=tuple[str, Finding]) for line in lines)
    return {name: found.get(name, Finding("unknown", reason)) for name in map(_name, group)}


def _kill(process: "subprocess.Popen[bytes]") -> None:
    """Kill a process and its children; one that waits for a driver may not end, and is left."""
    with contextlib.suppress(ProcessLookupError, PermissionError, subprocess.TimeoutExpired):
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(0.2)


def main(arguments: Sequence[str]) -> None:
    """Run probes in a child process and write a line of JSON for each.

    Args:
        arguments: root, path of the bundle, and the probes.
    """
    root, bundle, *places = arguments
    subject, output, home = Subject(Path(root), bundle), os.dup(1), os.path.expanduser("~")
    os.dup2(2, 1)  # libraries print, too
    for place in places:
        line = to_json((_name(place), _run(place, subject))).decode()
        if os.path.isabs(home) and home.strip("/"):  # reports are published
            line = re.sub(rf"(?<!'){re.escape(home)}(?=[/\"\s;,)])", "~", line)
        os.write(output, f"{line}\n".encode())


def _run(place: str, subject: Subject) -> Finding:
    module, _, function = place.partition(":")
    try:
        finding: Finding = getattr(importlib.import_module(module), function)(subject)
    except MissingDependencyError as error:
        extra = "jetson" if subject.jetson and error.extra == "video" else error.extra
        return Finding("missing", f"{error.package} is not installed", {}, install_extra(extra))
    except IdolError as error:
        summary, _, fix = str(error).partition("; ")
        return Finding("faulty", summary, {}, fix)
    except Exception as error:  # noqa: BLE001 - a probe never raises
        text = " ".join(str(error).split())[:300]
        return Finding("unknown", f"{type(error).__name__}: {text}")
    return finding
