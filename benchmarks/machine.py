"""Facts of the machine that a result was measured on, and the output of results as JSON."""

import datetime
import json
import os
import platform
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from idol_runtime.files import replacing
from idol_runtime.processor import processor_name

__all__ = ["keep_memory", "machine_facts", "put_into", "report_result", "write_json"]


def keep_memory() -> None:
    """Start this program again so that glibc keeps freed memory and idle OpenMP threads sleep.

    Otherwise the time of PyTorch depends on what else runs in the process: 960 ms alone, 1440 ms beside
    `torch.compile`.
    """
    settings = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**40), "OMP_WAIT_POLICY": "passive"}
    if not settings.items() <= os.environ.items():
        os.execve(sys.executable, sys.orig_argv, {**os.environ, **settings})  # noqa: S606 - this program


def machine_facts() -> dict[str, str | int]:
    """Return processor, cores, versions and date; no host name and no path."""
    return {
        "cpu": processor_name(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 0,
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "numpy": np.__version__,
        "blas_threads": os.environ.get("OPENBLAS_NUM_THREADS", "default"),
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
    }


def write_json(report: Mapping[str, Any], path: Path | None) -> None:
    """Write a report to a file unless `path` is None."""
    if path is not None:
        with replacing(path) as temporary:
            temporary.write_text(json.dumps(report, indent=2) + "\n")


def put_into(page: str, text: str, begin: str, end: str) -> str:
    """Return the page with the text between its marks, which are lines.

    Raises:
        ValueError: the page has no marks.
    """
    before, opening, rest = page.partition(begin)
    _, closing, after = rest.partition(end)
    if not (opening and closing):
        raise ValueError(
            f"missing lines: {begin.strip()} and {end.strip()}; add them where the table belongs"
        )
    return f"{before}{begin}{text}{end}{after}"


def report_result(report: Mapping[str, Any], path: Path | None) -> int:
    """Print a report, write it to `path` if given, and return the exit status: 1 unless it `passed`."""
    print(json.dumps(report, indent=2))
    write_json(report, path)
    return 0 if report["passed"] else 1
