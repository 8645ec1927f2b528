"""The candidates of deform_attn_variants.cu: which answer rightly, and which is the fastest.

The kernel that ships runs beside them. What is wrong here fails nothing that ships, only this section.
"""

import os
from pathlib import Path

import torch

from benchmarks.gpu.attention import library_of
from benchmarks.gpu.checks import check_library
from benchmarks.gpu.common import Options, Report, Save, say
from benchmarks.gpu.kernels import Libraries, run_over

__all__ = ["compact", "run"]

TYPES = ((torch.float32, torch.float32), (torch.float16, torch.float16), (torch.bfloat16, torch.float32))


def run(options: Options, report: Report, save: Save) -> None:
    """Checks of all, then times of all: what is wrong is timed too, and marked."""
    found = sorted(Path(os.environ["IDOL_PLUGINS"]).glob("libcandidate_*.so"))
    report["checks"] = {}
    libraries: Libraries = {"kernel": None}
    for path in found if options.device == "cuda" else []:
        name = path.stem.removeprefix("libcandidate_")
        libraries[name] = path
        report["checks"][name] = check_library(library_of("cuda", path), options, candidate=True)
        save()
    run_over(libraries, False, options, report, save, TYPES)
    report["passed"] &= all(checks["passed"] for checks in report["checks"].values())
    report["table"] = compact(report)
    say("\n".join(report["table"]))


def compact(report: Report) -> list[str]:
    """A line for each library: rotated/warm medians in us of every call; then what failed which check."""
    columns = [f"{call['call'].replace(' at ', ' ')} {_types(call)}" for call in report["calls"]]
    lines = ["us, rotated/warm:", *(f"  {chr(97 + i)}: {column}" for i, column in enumerate(columns))]
    lines.append(" " * 25 + "".join(f"{chr(97 + i):>14}" for i in range(len(columns))))
    for name in report["calls"][0]["libraries"]:
        cells = ""
        for call in report["calls"]:
            one = call["libraries"][name]
            wrong = "!" if name in call["failed"] else ""
            text = f"{one['us']['median']:.1f}/{one['warm_us']['median']:.1f}" if "us" in one else "error"
            cells += f"{text + wrong:>14}"
        failed = report["checks"].get(name, {}).get("failed", [])
        lines.append(f"{name:25}{cells}{f'  {len(failed)} checks failed' if failed else ''}")
    for name, checks in report["checks"].items():
        lines += [f"{name}: {one['case']}: {one['error']}" for one in checks["failed"][:3]]
    return lines


def _types(call: Report) -> str:
    return "/".join(name.replace("bfloat", "bf").replace("float", "f") for name in call["types"])
