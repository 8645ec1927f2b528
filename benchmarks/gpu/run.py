"""Checks and timings of everything that needs a CUDA device, as one JSON document.

    bash benchmarks/gpu/run.sh                       build the libraries, then run all sections
    bash benchmarks/gpu/run.sh --only a,d            build, then run the sections of some parts
    bash benchmarks/gpu/run.sh --only build,kernels  run exactly these sections
    python -m benchmarks.gpu.run --device cpu --quick   dry run of the sections that need no device

The parts in order of value: (a) kernels and tests, (b) TensorRT plugin, (c) frames, (d) speed of the kernels, (e)
training, (f) ONNX Runtime. Each section runs in its own process with its own time limit, so that a crash or a slow
section affects that section only; its results are saved as they appear. Progress goes to stderr and the JSON to stdout.
With OUT set, the JSON is also written to $OUT/gpu.json after every section.

Exit status: 1 if a section fails, 3 without a CUDA device. Requires torch and numpy; the sections of the kernel also
require nvcc and CMake. A section that lacks a package is skipped, and its report names the package.
"""

import argparse
import importlib
import json
import os
import subprocess
import sys
import time
import traceback
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from benchmarks.gpu.common import Options, Report, device_facts, say
from idol_runtime.files import replacing

__all__ = ["BACKGROUND", "SECTIONS", "Section", "chosen", "main"]

NO_CUDA = 3


@dataclass(frozen=True)
class Section:
    """A section: the module of this name with a function `run`.

    Attributes:
        part: letter of the part; empty for the build, which all parts need.
        limit: time limit in seconds, start of the process included.
        timed: its results include times, so nothing may run beside it.
    """

    part: str
    limit: int
    timed: bool = False


# The sections run in this order. Parts a to d take at most 6 minutes, e and f at most 3.
SECTIONS = {
    "build": Section("", 45),
    "checks": Section("a", 20),
    "tests": Section("a", 40),
    "plugin": Section("b", 15),
    "backward": Section("a", 25, timed=True),
    "frames": Section("c", 120, timed=True),
    "identities": Section("c", 40),
    "kernels": Section("d", 55, timed=True),
    "training": Section("e", 135, timed=True),
    "ort": Section("f", 45, timed=True),
}
# Fills the compiler's cache for `frames` beside the sections without times before it; their limits include it.
BACKGROUND, BACKGROUND_LIMIT = "compiled", 115
MARGIN_S = 4.0  # a section is asked to end this long before its limit
DRY_RUN = 4  # factor of all limits on a CPU, which may be slow and busy


def run_section(name: str, path: Path, options: Options) -> int:
    """Run one section in this process and write its report to `path`, including the error that stops it."""
    report: Report = {"passed": False}

    def save() -> None:
        with replacing(path) as temporary:
            temporary.write_text(json.dumps(report))

    if options.quick:
        torch.set_num_threads(1)  # with small arrays on a busy machine, threads mostly wait for each other
    started = time.perf_counter()
    try:
        importlib.import_module(f"benchmarks.gpu.{name}").run(options, report, save)
    except Exception as error:  # noqa: BLE001 - a failed section is a result and does not end the run
        report["passed"] = False
        report["error"] = f"{type(error).__name__}: {error}"[:2000]
        report["where"] = traceback.format_exc().splitlines()[-6:-1]
    report["seconds"] = round(time.perf_counter() - started, 1)
    save()
    return 0 if report["passed"] else 1


class Process:
    """A running process of a section."""

    def __init__(self, name: str, limit: float, options: Options) -> None:
        self._folder = TemporaryDirectory(prefix="idol-gpu-")
        self._path = Path(self._folder.name) / "section.json"
        self._limit, self._end = limit, time.monotonic() + limit
        # The monotonic clock is the same in all processes.
        options = replace(options, deadline=self._end - min(MARGIN_S, limit / 10))
        command = [sys.executable, "-m", "benchmarks.gpu.run", "--section", name, "--into", str(self._path)]
        command += ["--device", options.device, "--repeats", str(options.repeats)]
        command += ["--deadline", str(options.deadline), *(["--quick"] if options.quick else [])]
        self._process = subprocess.Popen(command, stdout=sys.stderr)

    def report(self) -> Report:
        """Wait for the end or the time limit, and return the report, which may be incomplete."""
        reason = None
        try:
            code = self._process.wait(max(0.0, self._end - time.monotonic()))
            if code < 0:
                reason = f"ended by signal {-code}"
        except subprocess.TimeoutExpired:
            reason = f"stopped after its limit of {self._limit:.0f} s"
            self._process.kill()
            self._process.wait()
        report: Report = json.loads(self._path.read_text()) if self._path.is_file() else {}
        self._folder.cleanup()
        if reason is not None or "seconds" not in report:
            report = {**report, "passed": False, "error": reason or "ended without a report"}
        return report


def run_all(names: list[str], budget: float | None, commit: str | None, options: Options) -> Report:
    """Run the sections and return the document, which is also written to $OUT after each of them."""
    factor = 1 if options.device == "cuda" else DRY_RUN
    limits = {name: factor * section.limit for name, section in SECTIONS.items()}
    end = time.monotonic() + (budget or sum(limits.values()))
    document: Report = {
        "machine": device_facts(options.device),
        "commit": commit or current_commit(),
        "quick": options.quick,
        "passed": False,
        "failed": [],
        "skipped": {},
        "sections": {},
    }

    def add(name: str, report: Report) -> None:
        document["sections"][name] = report
        if not report["passed"]:
            document["failed"].append(name)
        if "skipped" in report:
            document["skipped"][name] = report["skipped"]
        document["passed"] = not document["failed"]
        outcome = "skipped" if "skipped" in report else "passed" if report["passed"] else "FAILED"
        say(f"[{name}] {outcome} {report.get('skipped', report.get('error', ''))}")
        write(document)

    background = Process(BACKGROUND, factor * BACKGROUND_LIMIT, options) if "frames" in names else None
    for name in names:
        if background is not None and SECTIONS[name].timed:
            add(BACKGROUND, background.report())
            background = None
        left = end - time.monotonic()
        say(f"[{name}] started, {left:.0f} s left")
        if left < 5:
            add(name, {"passed": False, "error": "no time left"})
        else:
            add(name, Process(name, min(left, limits[name]), options).report())
    return document


def write(document: Report) -> None:
    """Write the document to $OUT/gpu.json if OUT is set."""
    if os.environ.get("OUT"):
        with replacing(Path(os.environ["OUT"]) / "gpu.json") as temporary:
            temporary.write_text(json.dumps(document, indent=1) + "\n")


def current_commit() -> str | None:
    """Return the checkout's commit, or None outside a git repository."""
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short=12", "HEAD"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:
        return None
    return done.stdout.strip() or None


def chosen(only: str | None) -> list[str]:
    """Return the sections to run: all, or those of a list of parts and names. A part includes the build.

    Raises:
        ValueError: there is no such part or section.
    """
    if only is None:
        return list(SECTIONS)
    parts = {section.part for section in SECTIONS.values()} - {""}
    names: set[str] = set()
    for word in only.split(","):
        if word not in parts | SECTIONS.keys():
            raise ValueError(f"unknown section: {word}; choose from {', '.join([*sorted(parts), *SECTIONS])}")
        names |= {word} if word in SECTIONS else {n for n, s in SECTIONS.items() if s.part in ("", word)}
    return [name for name in SECTIONS if name in names]


def main() -> int:
    """Run the sections, print the document, and return the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--quick", action="store_true", help="small sizes, 2 repetitions, no code generation")
    parser.add_argument(
        "--only",
        metavar="PART,…",
        help=f"run these parts (a to f, with the build) or sections only: {', '.join(SECTIONS)} (default: all)",
    )
    parser.add_argument("--repeats", type=int, default=50, help="timed repetitions (default: %(default)s)")
    parser.add_argument(
        "--budget",
        type=float,
        metavar="SECONDS",
        help="time limit of all sections together (default: the sum of their limits)",
    )
    parser.add_argument("--commit", help="commit to record in the document (default: ask git)")
    parser.add_argument("--section", choices=[*SECTIONS, BACKGROUND], help=argparse.SUPPRESS)
    parser.add_argument("--into", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--deadline", type=float, default=float("inf"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    try:
        names = chosen(args.only)
    except ValueError as error:
        parser.error(str(error))
    if args.device == "cuda" and not torch.cuda.is_available():
        say("this check needs a CUDA device, and torch finds none; try --device cpu --quick")
        return NO_CUDA
    options = Options(args.device, args.quick, 2 if args.quick else args.repeats, args.deadline)
    if args.section:
        return run_section(args.section, args.into, options)
    document = run_all(names, args.budget, args.commit, options)
    print(json.dumps(document, indent=1))
    return 0 if document["passed"] else 1


if __name__ == "__main__":
    sys.exit(main())
