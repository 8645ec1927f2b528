"""Checks and timings of everything that needs a CUDA device, as one JSON document.

    bash benchmarks/gpu/run.sh                                build the libraries, then run all sections
    bash benchmarks/gpu/run.sh --only build,checks,kernels    run some sections
    python -m benchmarks.gpu.run --device cpu --quick         dry run of the sections that need no device

Each section runs in its own process, so that a crash or a time limit affects that section only; its results are saved
as they appear. Progress goes to stderr and the JSON to stdout. With OUT set, the JSON is also written to $OUT/gpu.json
after every section.

Exit status: 1 if a section fails, 3 without a CUDA device. Requires torch and numpy; the sections of the kernel also
require nvcc and CMake.
"""

import argparse
import importlib
import json
import os
import subprocess
import sys
import time
import traceback
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from benchmarks.gpu.common import Options, Report, device_facts, say
from idol_runtime.files import replacing

NO_CUDA = 3
# Time limits in seconds. The sections run in this order, the most important first.
SECTIONS = {
    "build": 240,
    "checks": 150,
    "plugin": 60,
    "kernels": 150,
    "tests": 150,
    "backward": 120,
    "frames": 600,
}
RESERVE_S = 10.0


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


def start_section(name: str, limit: float, options: Options) -> Report:
    """Run one section in its own process and return its report, which may be incomplete."""
    with TemporaryDirectory(prefix="idol-gpu-") as folder:
        path = Path(folder) / "section.json"
        command = [sys.executable, "-m", "benchmarks.gpu.run", "--section", name, "--into", str(path)]
        command += ["--device", options.device, "--repeats", str(options.repeats)]
        command += ["--quick"] if options.quick else []
        reason = None
        try:
            code = subprocess.run(command, stdout=sys.stderr, timeout=limit, check=False).returncode
            if code < 0:
                reason = f"ended by signal {-code}"
        except subprocess.TimeoutExpired:
            reason = f"stopped after its limit of {limit:.0f} s"
        report: Report = json.loads(path.read_text()) if path.is_file() else {}
    if reason is not None or "seconds" not in report:
        report = {**report, "passed": False, "error": reason or "ended without a report"}
    return report


def run_all(names: list[str], budget: float, commit: str | None, options: Options) -> Report:
    """Run the sections and return the document, which is also written to $OUT after each of them."""
    started = time.monotonic()
    document: Report = {
        "machine": device_facts(options.device),
        "commit": commit or current_commit(),
        "quick": options.quick,
        "passed": False,
        "failed": [],
        "sections": {},
    }
    for name in names:
        left = budget - RESERVE_S - (time.monotonic() - started)
        say(f"[{name}] started, {left:.0f} s left")
        if left < 5:
            report: Report = {"passed": False, "error": "no time left"}
        else:
            report = start_section(name, min(left, SECTIONS[name]), options)
        document["sections"][name] = report
        if not report["passed"]:
            document["failed"].append(name)
        document["passed"] = not document["failed"]
        say(f"[{name}] {'passed' if report['passed'] else 'FAILED'} {report.get('error', '')}")
        write(document)
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


def main() -> int:
    """Run the sections, print the document, and return the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--quick", action="store_true", help="small sizes, 2 repetitions, no code generation")
    parser.add_argument(
        "--only", metavar="SECTION,…", help=f"run these sections only: {', '.join(SECTIONS)} (default: all)"
    )
    parser.add_argument("--repeats", type=int, default=50, help="timed repetitions (default: %(default)s)")
    parser.add_argument(
        "--budget",
        type=float,
        default=570,
        metavar="SECONDS",
        help="time limit of all sections together (default: %(default)s)",
    )
    parser.add_argument("--commit", help="commit to record in the document (default: ask git)")
    parser.add_argument("--section", choices=list(SECTIONS), help=argparse.SUPPRESS)
    parser.add_argument("--into", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    names = args.only.split(",") if args.only else list(SECTIONS)
    for name in names:
        if name not in SECTIONS:
            parser.error(f"unknown section: {name}; choose from {', '.join(SECTIONS)}")
    if args.device == "cuda" and not torch.cuda.is_available():
        say("this check needs a CUDA device, and torch finds none; try --device cpu --quick")
        return NO_CUDA
    options = Options(args.device, args.quick, 2 if args.quick else args.repeats)
    if args.section:
        return run_section(args.section, args.into, options)
    document = run_all(names, args.budget, args.commit, options)
    print(json.dumps(document, indent=1))
    return 0 if document["passed"] else 1


if __name__ == "__main__":
    sys.exit(main())
