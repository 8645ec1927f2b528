"""The tests that need a CUDA device, run by pytest where it is installed."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

from benchmarks.gpu.common import Options, Report, Save

__all__ = ["run"]

ROOT = Path(__file__).parents[2]


def run(options: Options, report: Report, save: Save) -> None:
    """Run `pytest -m gpu` and report the counts and the end of its output."""
    missing = [name for name in ("pytest", "hypothesis") if importlib.util.find_spec(name) is None]
    if missing:
        report["error"] = f"not installed: {', '.join(missing)}; pip install {' '.join(missing)}"
        return
    # Other test files may import packages that are not installed here.
    files = sorted(
        str(path.relative_to(ROOT))
        for path in (ROOT / "tests").rglob("test_*.py")
        if "pytest.mark.gpu" in path.read_text()
    )
    command = [sys.executable, "-m", "pytest", "-m", "gpu", "-q", "-p", "no:cacheprovider", *files]
    command += ["-W", "default"]  # unpinned versions of torch or numpy may emit warnings
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    report["tail"] = [line.replace(f"{ROOT}/", "") for line in (done.stdout + done.stderr).splitlines()[-40:]]
    counts = re.findall(r"(\d+) (passed|failed|errors?|skipped|deselected)", done.stdout)
    report["counts"] = {outcome: int(count) for count, outcome in counts}
    # On a CPU all of them are skipped.
    report["passed"] = done.returncode == 0 and (options.device != "cuda" or "passed" in report["counts"])
    save()
