"""Fuzzing of every parser with mutated files and HTTP requests, in worker processes.

    scripts/fuzz [--inputs N] [--seed N] [--workers N] [--only PARSER ...] [--json OUT]

Prints a row per parser and the faults: exceptions outside the project's tree, signals, and inputs that need more than
1 GiB or 10 s. Exit status: 1 if there is a fault. The inputs follow from the seed.
"""

import argparse
import importlib.metadata
import json
import platform
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import torch

from fuzzing.campaign import fuzz
from fuzzing.parsers import PARSERS
from idol_runtime.files import replacing

_VERSIONS = ("msgspec", "numpy", "onnx", "pillow", "pycocotools", "safetensors", "torch")


def main() -> int:
    """Run the campaign and return the exit status."""
    parser = argparse.ArgumentParser(
        prog="fuzz", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--inputs", type=int, default=500_000, help="number of inputs (default: 500000)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the inputs (default: 0)")
    parser.add_argument("--workers", type=int, default=2, help="number of processes (default: 2)")
    parser.add_argument("--only", action="append", choices=PARSERS, help="fuzz this parser (repeatable)")
    parser.add_argument("--json", type=Path, help="write the report to this file")
    options = parser.parse_args()
    torch.set_num_threads(1)
    chosen = {name: PARSERS[name] for name in options.only or PARSERS}
    report = fuzz(chosen, options.inputs, options.seed, options.workers)
    print(f"{'parser':14} {'inputs':>8} {'refused':>8} {'slowest':>10}")
    for name, counts in report.parsers.items():
        print(f"{name:14} {counts['inputs']:8.0f} {counts['refused']:8.0f} {counts['slowest_ms']:7.0f} ms")
    for fault in report.faults:
        print(
            f"FAULT {fault['name']} {fault['index']}: {fault['what']} ({fault['place']}), {fault['count']} times"
        )
    inputs = sum(int(counts["inputs"]) for counts in report.parsers.values())
    print(f"{inputs} inputs, {len(report.faults)} faults")
    if options.json:
        versions = {"python": platform.python_version()}
        versions |= {name: importlib.metadata.version(name) for name in _VERSIONS}
        contents = {"inputs": inputs, "seed": options.seed, "versions": versions, **vars(report)}
        with replacing(options.json) as temporary:
            temporary.write_text(json.dumps(contents, indent=1) + "\n")
    return 1 if report.faults else 0


if __name__ == "__main__":
    sys.exit(main())
