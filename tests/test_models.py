"""The bundled demo model: bundle and checkpoint are the same, and the examples of the README work."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from idol_runtime import Pipeline
from idol_runtime.bundle.bundle import Bundle

ROOT = Path(__file__).parents[1]
MODEL = ROOT / "models/edge_synth"
LARGEST = 13_000_000  # bytes
needs_torch = pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="needs torch")


@pytest.fixture
def demo(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(ROOT / "examples")
    return importlib.import_module("demo")


@needs_torch
def test_bundle_and_checkpoint_have_the_same_weights() -> None:
    from idol_deploy.settings import network_config
    from idol_deploy.weights.checkpoint import inspect_checkpoint

    checkpoint = inspect_checkpoint(MODEL / "edge_synth.safetensors")
    with Bundle.open(MODEL / "edge_synth.idol") as bundle:
        assert bundle.manifest.weights_sha256 == checkpoint.weights
        assert bundle.manifest.storage == "fp16"
        assert bundle.manifest.stream == network_config(str(MODEL / "settings.json")).stream
    assert (MODEL / "edge_synth.idol").stat().st_size <= LARGEST


def test_no_path_of_the_machine_that_trained_it_ships() -> None:
    data = json.loads((MODEL / "settings.json").read_text())["data"]
    assert not any(Path(data[key]).is_absolute() for key in ("annotations", "frames"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "usage: python examples/stream.py model.idol clip.mp4\n"),
        (["model.idol"], "usage: python examples/stream.py model.idol clip.mp4\n"),
        ([str(MODEL), "gone.mp4"], f"error: {MODEL} is a folder; give "),
        ([str(MODEL / "edge_synth.idol"), "gone.mp4"], "error: gone.mp4 does not exist; check the path"),
    ],
)
def test_mistakes_with_the_example_give_one_line(arguments: list[str], message: str) -> None:
    command = [sys.executable, str(ROOT / "examples/stream.py"), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith(message)
    assert done.stderr.count("\n") == 1


def test_identities_of_the_demonstration_survive_an_absence(demo: Any, tmp_path: Path) -> None:
    demo.demo(tmp_path)
    lines = demo.describe_absences(tmp_path / "clip/instances.json", tmp_path / "frames.jsonl")
    parts = [re.fullmatch(r".* frames (\d+) to (\d+): before (\S+), after (\S+)", line) for line in lines]
    frames_absent = [
        int(part[2]) - int(part[1]) + 1
        for part in parts
        if part is not None and part[3] == part[4] != "unseen"
    ]
    assert max(frames_absent, default=0) >= 4
    with Pipeline.open(MODEL / "edge_synth.idol") as pipeline:
        assert pipeline.note == ""
