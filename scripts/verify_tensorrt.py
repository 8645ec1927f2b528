"""The steps of `scripts/verify_tensorrt.sh`, each in a process of its own, and the report file.

Needs only the standard library and the requirements of the steps.
"""

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
IDOL = [sys.executable, "-m", "idol_deploy.cli"]
CHECKS = [sys.executable, str(ROOT / "scripts" / "verify_engine.py")]
_KEPT = 6000  # characters of a step's output in the report
_SECONDS = 7200


class Steps:
    """The results of the steps, in order."""

    def __init__(self, environment: dict[str, str]) -> None:
        self.done: list[dict[str, Any]] = []
        self.environment = environment

    def run(
        self,
        name: str,
        command: list[str],
        result: Path | None = None,
        needs: str | None = None,
    ) -> bool:
        """Run a step, unless a step that it needs has failed, and return True on success.

        Args:
            name: Name of the step.
            command: Command to run; exit status 0 is success.
            result: JSON file that the command writes; None: the last line of its output, if that is JSON.
            needs: Name of an earlier step that must have passed; None: no condition.
        """
        if needs is not None and not self.passed(needs):
            return self.skip(name, f"it needs {needs}")
        print(f"[verify-tensorrt] {name} ...", flush=True)
        started = time.monotonic()
        try:
            done = subprocess.run(  # noqa: S603
                command, capture_output=True, text=True, check=False, timeout=_SECONDS, env=self.environment
            )
            status, out, err = done.returncode, done.stdout, done.stderr
        except subprocess.TimeoutExpired:
            status, out, err = 124, "", f"stopped after {_SECONDS} s"
        seconds = time.monotonic() - started
        step = {
            "name": name,
            "status": "failed" if status else "passed",
            "exit": status,
            "seconds": round(seconds, 1),
            "command": _anonymous(" ".join(command)),
            "output": _anonymous(out[-_KEPT:]),
            "errors": _anonymous(err[-_KEPT:]),
            "result": _json(
                result.read_text() if result and result.is_file() else out.strip().split("\n")[-1]
            ),
        }
        self.done.append(step)
        last = (err or out).strip().split("\n")[-1]
        result_text = f"FAILED ({status}): {last}" if status else "passed"
        print(f"[verify-tensorrt] {name}: {result_text}, {seconds:.0f} s", flush=True)
        return not status

    def skip(self, name: str, why: str) -> bool:
        """Record a step that was not run, and return False."""
        self.done.append({"name": name, "status": "skipped", "why": why})
        print(f"[verify-tensorrt] {name}: skipped, {why}", flush=True)
        return False

    def passed(self, name: str) -> bool:
        """Return True if a step was run and passed."""
        return any(step["name"] == name and step["status"] == "passed" for step in self.done)


def _anonymous(text: str) -> str:
    return text.replace(str(ROOT), "REPOSITORY").replace(str(Path.home()), "~")


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return None


def verify(bundles: list[Path], include: str | None, dry_run: bool, work: Path, output: Path) -> int:
    """Run all steps, write the report and return the exit status."""
    steps = Steps(_fake_environment(work) if dry_run else {**os.environ})
    steps.run("environment", [*CHECKS, "environment"])
    if dry_run:
        for name in ("plugins build", "plugins selftest", "plugin conformance"):
            steps.skip(name, "this is a dry run")
    else:
        tensorrt = ["--tensorrt-include", include] if include else []
        steps.run("plugins build", [*IDOL, "plugins", "build", "--cuda", *tensorrt])
        steps.run("plugins selftest", [*IDOL, "plugins", "selftest", "--json"])
        steps.run(
            "plugin conformance",
            [sys.executable, "-m", "idol_plugins.trt.conformance"],
            needs="plugins build",
        )
    for bundle in bundles:
        _verify_bundle(steps, bundle, work, dry_run)
    report = {
        "schema": 1,
        "dry_run": dry_run,
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "machine": {
            "system": platform.platform(),
            "python": platform.python_version(),
            "cpus": os.cpu_count(),
        },
        "bundles": [{"name": bundle.name, "bytes": bundle.stat().st_size} for bundle in bundles],
        "steps": steps.done,
    }
    output.write_text(json.dumps(report, indent=1) + "\n")
    failed = [step["name"] for step in steps.done if step["status"] == "failed"]
    for name in failed:
        print(f"[verify-tensorrt] the step that failed: {name}")
    print(f"[verify-tensorrt] {'FAILED' if failed else 'all passed'}; please send back {output}")
    return 1 if failed else 0


def _verify_bundle(steps: Steps, bundle: Path, work: Path, dry_run: bool) -> None:
    name, path = bundle.stem, str(bundle)
    bench = work / f"{name}.bench.json"
    needs = None if dry_run else "plugins build"
    if not steps.run(f"graphs {name}", [*CHECKS, "graphs", path]):
        return
    built = [
        graph
        for graph in steps.done[-1]["result"]
        if _build(steps, bundle, graph, work / "report.json", needs)
    ]
    build = f"build {name}, {built[0]}" if built else f"build {name}"
    steps.run(f"keep {name}", [*IDOL, "build", path, "--graph", *built[:1]], needs=build)
    steps.run(f"tracks {name}", [*CHECKS, "tracks", path], needs=build)
    steps.run(f"refuse {name}", [*CHECKS, "refusals", path], needs=build)
    if built:
        # Some releases compute the portable graph wrongly: record a failed build as refused, not as a failure.
        scratch = ["--into", str(work / "portable")]
        steps.run(f"build {name}, portable", [*IDOL, "build", path, "--graph", "portable", *scratch])
        if steps.done[-1]["status"] == "failed":
            steps.done[-1]["status"] = "refused"
    if "bench" not in _commands(steps.environment):
        steps.skip(f"bench {name}", "this version has no bench command")
        return
    few = ["--frames", "2", "--warmup", "1", "--only", "tensorrt"] if dry_run else []
    steps.run(
        f"bench {name}",
        [*IDOL, "bench", path, "--device", "cuda", *few, "--json", str(bench)],
        bench,
        needs=build,
    )


def _build(steps: Steps, bundle: Path, graph: str, report: Path, needs: str | None) -> bool:
    report.unlink(missing_ok=True)
    command = [*IDOL, "build", str(bundle), "--graph", graph, "--force", "--report", str(report)]
    return steps.run(f"build {bundle.stem}, {graph}", command, report, needs)


def _commands(environment: dict[str, str]) -> str:
    command = [*IDOL, "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)  # noqa: S603
    return done.stdout


def _fake_environment(work: Path) -> dict[str, str]:
    """Return an environment with fakes of TensorRT and a device, and temporary folders."""
    plugins = work / "plugins"
    plugins.mkdir()
    folder = os.environ.get("IDOL_PLUGINS")
    for library in Path(folder).glob("*.so") if folder else ():
        shutil.copy(library, plugins)
    (plugins / "libidol_deform_attn_trt.so").write_bytes(b"a fake")
    paths = [str(ROOT / "tests" / "fakes"), os.environ.get("PYTHONPATH", "")]
    changes = {
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        "IDOL_PLUGINS": str(plugins),
        "IDOL_ENGINES": str(work / "engines"),
    }
    return {**os.environ, **changes}


def main() -> int:
    """Run the command line and return its exit status."""
    parser = argparse.ArgumentParser(prog="scripts/verify_tensorrt.sh", description=__doc__)
    add = parser.add_argument
    add(
        "bundles",
        nargs="*",
        type=Path,
        metavar="BUNDLE.idol",
        help="bundles to verify (default: those in models/)",
    )
    add(
        "--output",
        type=Path,
        default=Path("verify_tensorrt.json"),
        metavar="FILE",
        help="write the report to FILE (default: verify_tensorrt.json)",
    )
    add("--tensorrt-include", metavar="DIR", help="use TensorRT's C++ headers in DIR (default: the system's)")
    add("--dry-run", action="store_true", help="use fakes of TensorRT and a device")
    options = parser.parse_args()
    bundles = options.bundles or sorted((ROOT / "models").glob("*/*.idol"))
    missing = [str(bundle) for bundle in bundles if not bundle.is_file()]
    if missing or not bundles:
        print(
            f"[verify-tensorrt] bundle not found: {' '.join(missing) or 'models/*/*.idol'}; export one and pass it",
            file=sys.stderr,
        )
        return 2
    with tempfile.TemporaryDirectory() as work:
        return verify(bundles, options.tensorrt_include, options.dry_run, Path(work), options.output)


if __name__ == "__main__":
    sys.exit(main())
