"""Everything of this project that needs a CUDA device, section by section, as one JSON document.

    bash benchmarks/gpu/run.sh                                        builds the libraries, then runs all sections
    bash benchmarks/gpu/run.sh --only build,checks,kernels            some of them
    python -m benchmarks.gpu.run --device cpu --quick            a dry run of what does not need a device

Each section runs in a process of its own, so that neither a crash nor a limit takes more than the section with it, and
its share of the document is kept as it grows. Progress goes to stderr; stdout gets the JSON, which after every section
is also written to $OUT/gpu.json where OUT is set.

Exits with 1 when a section fails, with 3 without a CUDA device. Needs torch and numpy alone; the kernel's sections also
nvcc and CMake.
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
# In this order, what matters most first; and the most seconds that each may take.
SECTIONS = {
    "build": 240,
    "checks": 150,
    "plugin": 60,
    "kernels": 150,
    "tests": 150,
    "candidates": 200,
    "backward": 120,
    "frames": 600,
}
RESERVE_S = 10.0


def run_section(name: str, into: Path, options: Options) -> int:
    """Run one section here; what it finds goes `into` a file, the reason where it breaks off included."""
    report: Report = {"passed": False}

    def save() -> None:
        with replacing(into) as temporary:
            temporary.write_text(json.dumps(report))

    if options.quick:
        torch.set_num_threads(1)  # threads of small arrays on a busy machine wait for each other
    started = time.perf_counter()
    try:
        importlib.import_module(f"benchmarks.gpu.{name}").run(options, report, save)
    except Exception as error:  # noqa: BLE001 - a section that fails is a finding, not the run's end
        report["passed"] = False
        report["error"] = f"{type(error).__name__}: {error}"[:2000]
        report["where"] = traceback.format_exc().splitlines()[-6:-1]
    report["seconds"] = round(time.perf_counter() - started, 1)
    save()
    return 0 if report["passed"] else 1


def start_section(name: str, limit: float, options: Options) -> Report:
    """Run one section in a process of its own; its report, complete or not."""
    with TemporaryDirectory(prefix="idol-gpu-") as folder:
        into = Path(folder) / "section.json"
        command = [sys.executable, "-m", "benchmarks.gpu.run", "--section", name, "--into", str(into)]
        command += ["--device", options.device, "--repeats", str(options.repeats)]
        command += ["--quick"] if options.quick else []
        reason = None
        try:
            code = subprocess.run(command, stdout=sys.stderr, timeout=limit, check=False).returncode
            if code < 0:
                reason = f"ended by signal {-code}"
        except subprocess.TimeoutExpired:
            reason = f"cut off after {limit:.0f} s"
        report: Report = json.loads(into.read_text()) if into.is_file() else {}
    if reason is not None or "seconds" not in report:
        report = {**report, "passed": False, "error": reason or "ended without a word"}
    return report


def run_all(names: list[str], budget: float, commit: str | None, options: Options) -> Report:
    """The whole document; written to $OUT as it grows."""
    started = time.monotonic()
    document: Report = {
        "machine": device_facts(options.device),
        "commit": commit or commit_here(),
        "quick": options.quick,
        "passed": False,
        "failed": [],
        "sections": {},
    }
    for name in names:
        left = budget - RESERVE_S - (time.monotonic() - started)
        say(f"[{name}] starts, {left:.0f} s left")
        if left < 5:
            report: Report = {"passed": False, "error": "no time was left"}
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
    """To $OUT, if there is one."""
    if os.environ.get("OUT"):
        with replacing(Path(os.environ["OUT"]) / "gpu.json") as temporary:
            temporary.write_text(json.dumps(document, indent=1) + "\n")


def commit_here() -> str | None:
    """Of the checkout, where git knows it."""
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short=12", "HEAD"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:
        return None
    return done.stdout.strip() or None


def main() -> int:
    """Run the sections, print, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--quick", action="store_true", help="small sizes, 2 repetitions, no code generation")
    parser.add_argument("--only", metavar="SECTION,…", help=f"of {', '.join(SECTIONS)}")
    parser.add_argument("--repeats", type=int, default=50, help="timed repetitions")
    parser.add_argument(
        "--budget", type=float, default=570, metavar="SECONDS", help="for all sections together"
    )
    parser.add_argument("--commit", help="to name in the document, where git cannot")
    parser.add_argument("--section", choices=list(SECTIONS), help=argparse.SUPPRESS)
    parser.add_argument("--into", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    names = args.only.split(",") if args.only else list(SECTIONS)
    for name in names:
        if name not in SECTIONS:
            parser.error(f"there is no section {name}; there are {', '.join(SECTIONS)}")
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
