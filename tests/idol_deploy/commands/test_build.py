"""`idol-deploy build`, and `run` with the engine that it built, on a fake of TensorRT."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.conftest import Toy
    from tests.idol_deploy.conftest import Command

Start = Callable[..., ModuleType]


def test_a_real_network_is_built_and_run(
    idol: Command, toy: Toy, fake_tensorrt: Start, tmp_path: Path
) -> None:
    import cv2

    trt = fake_tensorrt()
    report = tmp_path / "report.json"
    done = idol("build", str(toy.path), "--graph", "portable", "--workspace", "512", "--report", str(report))
    assert done.status == 0, done.err
    assert "against PyTorch on the golden frame, TensorRT 10.16.1.11 on Fake Orin" in done.out
    assert "2 layers: 1 CaskConvolution, 1 PluginV3" in done.out
    assert done.out.count("pass") == 6
    said = json.loads(report.read_text())
    assert said["engine"]["key"]["graph"] == "portable"
    assert max(stage["error"] for stage in said["engine"]["golden"]) < 1e-5
    assert said["layer_types"] == {"CaskConvolution": 1, "PluginV3": 1}
    assert "fits, and its outputs match" in idol("build", str(toy.path), "--graph", "portable").out

    frames = tmp_path / "frames"
    frames.mkdir()
    for index, image in enumerate(toy.video(3)):
        cv2.imwrite(str(frames / f"{index}.png"), image[..., ::-1])
    lines = {}
    trt.unrecordable = True
    for backend in ("tensorrt", "onnxruntime"):
        out = tmp_path / f"{backend}.jsonl"
        done = idol("run", str(toy.path), "--source", str(frames), "--jsonl", str(out), "--backend", backend)
        assert done.status == 0, done.err
        lines[backend] = out.read_text()
        taken = (
            "tensorrt 10.16.1.11 (Fake Orin, portable graph, fp32)"
            if backend == "tensorrt"
            else "onnxruntime (cpu"
        )
        assert taken in done.out
        assert done.out.count("its work is not one CUDA graph") == (backend == "tensorrt")
    assert lines["tensorrt"] == lines["onnxruntime"]


def test_the_bundle_is_not_replaced(refused: Callable[..., str], toy: Toy, tmp_path: Path) -> None:
    bundle = tmp_path / "a.idol"
    bundle.write_bytes(toy.path.read_bytes())
    assert "a.idol is an input as well" in refused("build", bundle, "--report", bundle)


def test_without_tensorrt_it_names_the_extra(
    refused: Callable[..., str], toy: Toy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "tensorrt", None)
    assert "pip install 'idol-deploy[tensorrt]'" in refused("build", str(toy.path))
