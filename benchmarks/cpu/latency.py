"""Latency table of the README, from `idol-deploy bench` with the bundled demo model.

    idol-deploy plugins build
    python -m benchmarks.cpu.latency [--frames 60] [--threads 2] [--json OUT] [--readme README.md]
    python -m benchmarks.cpu.latency --from benchmarks/results/latency.json --readme README.md

Runs every installed backend, PyTorch eager and compiled among them. `--readme` writes the table between two marks of a
file; `--from` reads an earlier result. Exits with 1 if the output of a row differs from PyTorch's.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.machine import put_into, write_json
from idol_deploy.cli import main as idol_deploy
from idol_runtime.files import replacing

MODEL = Path(__file__).parents[2] / "models" / "edge_synth"
BEGIN, END = "<!-- latency: benchmarks/cpu/latency.py -->\n", "<!-- end of latency -->\n"


def bench(frames: int, threads: int, only: str | None) -> dict[str, Any]:
    """Return the report of `idol-deploy bench` for the bundled demo model."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "bench.json"
        arguments = [
            *("bench", str(MODEL / "edge_synth.idol"), "--compile", "--json", str(path)),
            *("--weights", str(MODEL / "edge_synth.safetensors"), "--preset", str(MODEL / "settings.json")),
            *("--frames", str(frames), "--threads", str(threads), *(("--only", only) if only else ())),
        ]
        status = idol_deploy(arguments)
        if status:
            sys.exit(status)
        report: dict[str, Any] = json.loads(path.read_text())
    return report


def table(report: Mapping[str, Any]) -> str:
    """Return a Markdown table of latencies and speed-ups."""
    first = report["rows"][0]["row"]
    lines = [f"| | network, ms | times {first} | frames/s, all included |", "| --- | --- | --- | --- |"]
    for row in report["rows"]:
        ratio = row["faster_network"]
        spread = (
            "1"
            if row["row"] == first
            else f"{ratio['median']:.2f} ({ratio['p10']:.2f} to {ratio['p90']:.2f})"
        )
        wrong = " (wrong output)" if row["wrong"] else ""
        network = row["stages_ms"]["network"]["p50"]
        lines.append(f"| {row['row']}{wrong} | {network:.1f} | {spread} | {row['frames_per_s']:.1f} |")
    machine, size = report["machine"], "x".join(map(str, report["bundle"]["network_size"]))
    facts = (
        f"`{report['bundle']['preset']}` at {size}, {report['frames']} frames, {report['threads']} threads; "
        f"{machine['cpu']}, {machine['date']}; medians, and ratios frame by frame with 10th to 90th percentile."
    )
    return "\n".join([*lines, "", facts, ""])


def main() -> int:
    """Measure or read the results, print and write the table, and return the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--frames", type=int, default=60)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", help="run rows whose names contain one of these words")
    parser.add_argument("--from", dest="earlier", type=Path, metavar="JSON", help="earlier result to read")
    parser.add_argument("--json", type=Path, metavar="OUT")
    parser.add_argument(
        "--readme", type=Path, metavar="FILE", help="write the table between the marks of this file"
    )
    args = parser.parse_args()
    report = (
        json.loads(args.earlier.read_text()) if args.earlier else bench(args.frames, args.threads, args.only)
    )
    text = table(report)
    print(text)
    write_json(report, args.json)
    if args.readme is not None:
        page = put_into(args.readme.read_text(), text, BEGIN, END)
        with replacing(args.readme) as temporary:
            temporary.write_text(page)
    return 1 if any(row["wrong"] for row in report["rows"]) else 0


if __name__ == "__main__":
    sys.exit(main())
