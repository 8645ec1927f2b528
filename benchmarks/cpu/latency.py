"""The README's table of latencies: `idol-deploy bench` of the model in the box, and its rows in short.

    idol-deploy plugins build
    python -m benchmarks.cpu.latency [--frames 60] [--threads 2] [--json OUT] [--readme README.md]
    python -m benchmarks.cpu.latency --from benchmarks/results/latency.json --readme README.md

Every backend that is installed takes part, PyTorch eager and compiled among them, in turns. `--readme` puts the table
between the file's two marks; `--from` makes it of a result that was taken before. Exits with 1 when a row answers
wrongly.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from idol_deploy.cli import main as idol_deploy
from idol_runtime.files import replacing

MODEL = Path(__file__).parents[2] / "models" / "edge_synth"
BEGIN, END = "<!-- latency: benchmarks/cpu/latency.py -->\n", "<!-- end of latency -->\n"


def bench(frames: int, threads: int, only: str | None) -> dict[str, Any]:
    """The benchmark's report of the model in the box."""
    with tempfile.TemporaryDirectory() as folder:
        found = Path(folder) / "bench.json"
        arguments = [
            "bench",
            str(MODEL / "edge_synth.idol"),
            "--weights",
            str(MODEL / "edge_synth.safetensors"),
        ]
        arguments += ["--preset", str(MODEL / "settings.json"), "--compile", "--frames", str(frames)]
        arguments += ["--threads", str(threads), "--json", str(found), *(["--only", only] if only else [])]
        status = idol_deploy(arguments)
        if status:
            sys.exit(status)
        report: dict[str, Any] = json.loads(found.read_text())
    return report


def table(report: Mapping[str, Any]) -> str:
    """Markdown: what is slowest first, and how much faster the others are."""
    first = report["rows"][0]["row"]
    lines = [f"| | network, ms | times {first} | frames/s, all included |", "| --- | --- | --- | --- |"]
    for row in report["rows"]:
        ratio = row["faster_network"]
        spread = (
            "1"
            if row["row"] == first
            else f"{ratio['median']:.2f} ({ratio['p10']:.2f} to {ratio['p90']:.2f})"
        )
        wrong = " (answers wrongly)" if row["wrong"] else ""
        network = row["stages_ms"]["network"]["p50"]
        lines.append(f"| {row['row']}{wrong} | {network:.1f} | {spread} | {row['frames_per_s']:.1f} |")
    machine, size = report["machine"], "x".join(map(str, report["bundle"]["network_size"]))
    facts = (
        f"`{report['bundle']['preset']}` at {size}, {report['frames']} frames, {report['threads']} threads; "
        f"{machine['cpu']}, {machine['date']}; medians, and ratios frame by frame with 10th to 90th percentile."
    )
    return "\n".join([*lines, "", facts, ""])


def put_into(page: str, text: str) -> str:
    """The page with the text between its marks.

    Raises:
        ValueError: it has no marks.
    """
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(
            f"the page has no lines {BEGIN.strip()} and {END.strip()}; add them where the table belongs"
        )
    return f"{before}{BEGIN}{text}{END}{after}"


def main() -> int:
    """Measure or read, print, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--frames", type=int, default=60)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", help="rows whose names hold one of these")
    parser.add_argument("--from", dest="taken", type=Path, help="a result that was taken before")
    parser.add_argument("--json", type=Path, metavar="OUT")
    parser.add_argument("--readme", type=Path, metavar="FILE", help="put the table between its marks")
    args = parser.parse_args()
    report = json.loads(args.taken.read_text()) if args.taken else bench(args.frames, args.threads, args.only)
    text = table(report)
    print(text)
    if args.json is not None:
        with replacing(args.json) as temporary:
            temporary.write_text(json.dumps(report, indent=2) + "\n")
    if args.readme is not None:
        page = put_into(args.readme.read_text(), text)
        with replacing(args.readme) as temporary:
            temporary.write_text(page)
    return 1 if any(row["wrong"] for row in report["rows"]) else 0


if __name__ == "__main__":
    sys.exit(main())
