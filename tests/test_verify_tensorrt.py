"""`scripts/verify_tensorrt.sh` on fakes: every step runs, failures are named, and the report has all results."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import pytest

from idol_runtime.bundle.bundle import (
    CERTIFICATES,
    GOLDEN_FRAME,
    GRAPHS,
    WEIGHTS,
    Bundle,
    Certificates,
    write_bundle,
)

if TYPE_CHECKING:
    from tests.conftest import Toy

ROOT = Path(__file__).parents[1]


@pytest.fixture
def bundle(toy: Toy, tmp_path: Path) -> Path:
    """The toy network, with its portable graph also in the place of the graph with our operator."""
    with Bundle.open(toy.path) as opened:
        members = {name: opened.member(name) for name in (WEIGHTS, GRAPHS["portable"], GOLDEN_FRAME)}
        members[GRAPHS["plugin"]] = members[GRAPHS["portable"]]
        portable = opened.certificates.portable
        members[CERTIFICATES] = msgspec.json.encode(Certificates(portable, portable))
        write_bundle(tmp_path / "toy.idol", opened.manifest, members)
    return tmp_path / "toy.idol"


def verify(bundle: Path, output: Path, **environment: str) -> tuple[int, str, dict[str, object]]:
    command = [ROOT / "scripts" / "verify_tensorrt.sh", "--dry-run", "--output", output, bundle]
    done = subprocess.run(
        list(map(str, command)),
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHON": sys.executable, **environment},
    )
    return done.returncode, done.stdout + done.stderr, json.loads(output.read_text())


@pytest.mark.slow
def test_every_step_runs_and_is_reported(bundle: Path, tmp_path: Path) -> None:
    status, output, report = verify(bundle, tmp_path / "report.json")
    steps = {step["name"]: step for step in report["steps"]}
    assert status == 0, output
    for name in (
        "environment",
        "build toy, plugin",
        "keep toy",
        "tracks toy",
        "refuse toy",
    ):
        assert steps[name]["status"] == "passed", steps[name]
    assert steps["environment"]["result"]["gpu"] == "Fake Orin"
    engine = steps["build toy, plugin"]["result"]["engine"]
    assert (engine["key"]["graph"], len(engine["golden"])) == ("plugin", 6)
    assert steps["tracks toy"]["result"]["frames with equal ids"] == 12
    assert steps["tracks toy"]["result"]["instances"] > 12
    assert "is corrupted" in steps["refuse toy"]["result"]["corrupted"]
    assert report["dry_run"]
    assert f"please send back {tmp_path / 'report.json'}" in output
    assert str(Path.home()) not in (tmp_path / "report.json").read_text().replace(str(tmp_path), "")


@pytest.mark.slow
def test_the_step_that_failed_is_named(bundle: Path, tmp_path: Path) -> None:
    status, output, report = verify(bundle, tmp_path / "report.json", FAKE_TENSORRT="8.6")
    assert status == 1
    assert "[verify-tensorrt] the step that failed: build toy, plugin" in output
    assert "TensorRT 8.6.1 is too old" in output
    found = {step["name"]: step["status"] for step in report["steps"]}
    assert (found["build toy, plugin"], found["tracks toy"]) == ("failed", "skipped")
