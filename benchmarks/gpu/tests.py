"""The tests that need a device, by pytest, where it is installed."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

from benchmarks.gpu.common import Options, Report, Save

__all__ = ["run"]

ROOT = Path(__file__).parents[2]


def run(options: Options, report: Report, save: Save) -> None:
    """`pytest -m gpu`; counts and the end of what it says."""
    missing = [name for name in ("pytest", "hypothesis") if importlib.util.find_spec(name) is None]
    if missing:
        report["error"] = f"{', '.join(missing)} is not installed"
        return
    # Only the files that have any: others may import what is not installed here.
    where = sorted(
        str(path.relative_to(ROOT))
        for path in (ROOT / "tests").rglob("test_*.py")
        if "pytest.mark.gpu" in path.read_text()
    )
    command = [sys.executable, "-m", "pytest", "-m", "gpu", "-q", "-p", "no:cacheprovider", *where]
    # Another torch or numpy than the pinned ones may warn of this and that.
    command += ["-W", "default"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    report["tail"] = [line.replace(f"{ROOT}/", "") for line in (done.stdout + done.stderr).splitlines()[-40:]]
    counts = re.findall(r"(\d+) (passed|failed|errors?|skipped|deselected)", done.stdout)
    report["counts"] = {what: int(count) for count, what in counts}
    # On a CPU every one of them is skipped, which is right.
    report["passed"] = done.returncode == 0 and (options.device != "cuda" or "passed" in report["counts"])
    save()
