"""Tests of `idol-deploy bench`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.conftest import Toy
    from tests.idol_deploy.conftest import Command


def test_bench_measures_a_bundle(idol: Command, toy: Toy, tmp_path: Path) -> None:
    names = ("a.json", "a.md", "a.html")
    scores, markdown, page = (tmp_path / name for name in names)
    options = "--only", "onnxruntime", "--frames", 3, "--warmup", 1, "--threads", 1
    done = idol("bench", toy.path, *options, "--json", scores, "--markdown", markdown, "--html", page)
    assert done.status == 0, done.err
    report = json.loads(scores.read_text())
    (row,) = report["rows"]
    assert (row["row"], row["backend"]) == ("onnxruntime, portable", "onnxruntime (cpu, portable graph)")
    assert set(row["stages_ms"]) == {"decode", "preprocess", "network", "postprocess", "association", "draw"}
    assert len(row["network_ms"]) == 3
    assert row["golden_error"] < 1e-4
    assert report["roofline"]["work"]["flops"] > 1e7
    share = report["roofline"]["floor_ms"] / row["stages_ms"]["network"]["p50"]
    assert row["roofline_share"] == pytest.approx(share, rel=0.01)
    used = report["used_why"].partition("\n")[0]
    assert used.startswith("running portable on ")
    assert row["used"] == ("ONNX Runtime (cpu)" in used)
    assert "onnxruntime, portable" in done.out
    assert "| onnxruntime, portable" in markdown.read_text()
    assert page.read_text().startswith("<!doctype html>")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names)


def test_rows_are_listed(idol: Command, toy: Toy) -> None:
    done = idol("bench", toy.path, "--list", "--only", "onnxruntime")
    assert done.out == "onnxruntime, portable\n"


@pytest.mark.parametrize("output", ["--json", "--markdown", "--html"])
def test_an_input_is_not_replaced(refused: Callable[..., str], toy: Toy, tmp_path: Path, output: str) -> None:
    bundle, image = tmp_path / "a.idol", tmp_path / "a.png"
    bundle.write_bytes(toy.path.read_bytes())
    image.touch()
    for path in (bundle, image):
        message = refused("bench", bundle, "--source", image, "--only", "onnxruntime", output, path)
        assert f"{path} is an input as well" in message


@pytest.mark.parametrize(
    ("options", "fix"),
    [
        (["--only", "abacus"], "no row matches --only abacus; choose from: onnxruntime, portable"),
        (["--device", "foo", "--list"], "unknown device 'foo'; use cpu, cuda, cuda:N, gpu, gpu:N or npu"),
        (["--compile"], "pass --weights as well"),
        (["--json", "/nonexistent/a.json"], "create it first"),
        (["--source", "gone.mp4", "--only", "onnxruntime"], "check the path"),
    ],
)
def test_bad_benchmarks(refused: Callable[..., str], toy: Toy, options: list[str], fix: str) -> None:
    assert fix in refused("bench", toy.path, *options)
