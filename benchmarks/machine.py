"""What a reader must know of the machine to judge a figure, without host names or paths; and how a report is told."""

import datetime
import json
import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from idol_runtime.files import replacing

__all__ = ["machine_facts", "tell_report"]


def machine_facts() -> dict[str, str | int]:
    """Processor, cores, versions and date."""
    return {
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 0,
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "numpy": np.__version__,
        "blas_threads": os.environ.get("OPENBLAS_NUM_THREADS", "default"),
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
    }


def tell_report(report: Mapping[str, Any], path: Path | None) -> int:
    """Print a report, and write it where a file is wanted; the exit status, 1 unless it `passed`."""
    text = json.dumps(report, indent=2)
    print(text)
    if path is not None:
        with replacing(path) as temporary:
            temporary.write_text(text + "\n")
    return 0 if report["passed"] else 1


def _cpu_model() -> str:
    """As Linux names it; the architecture elsewhere."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    for line in lines:
        key, _, value = line.partition(":")
        if key.strip() in ("model name", "Model"):
            return value.strip()
    return platform.processor() or platform.machine()
