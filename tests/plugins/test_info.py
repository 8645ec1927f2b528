"""The overview of `plugins info`."""

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from idol_plugins.errors import PluginError
from idol_plugins.headers import ONNXRUNTIME, TENSORRT
from idol_plugins.info import collect
from idol_plugins.libraries import FOLDER_VARIABLE
from idol_plugins.selftest import TARGETS, Status


def test_lists_ready_missing_and_unusable_libraries(libraries: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(FOLDER_VARIABLE, str(libraries))
    cpu = TARGETS[0]
    missing = replace(cpu, status=lambda: Status(why="not built", fix="build it"))
    broken = replace(cpu, status=lambda: Status(Path("/lib.so"), why="it is torn", fix="mend it"))
    info = collect([cpu, missing, broken])
    table = info.table()
    assert f"ready     {libraries / 'libidol_deform_attn_cpu.so'}  (scalar, vec128" in table
    assert "missing   not built; build it" in table
    assert "unusable  it is torn; mend it" in table
    report = json.loads(json.dumps(info.as_dict()))
    assert [home["ready"] for home in report["homes"]] == [True, False, False]


def test_lists_the_build_tools(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name, output in (("c++", "c++ (Some 1.2.3) 12.2.0"), ("cmake", "cmake version 3.25.1\n\nof others")):
        (tmp_path / name).write_text(f"#!/bin/sh\necho '{output}'\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.path.dirname(shutil.which('sh') or '/bin/sh')}")
    monkeypatch.setattr(
        shutil, "which", lambda name: str(tmp_path / name) if name in ("c++", "cmake") else None
    )
    for headers in (ONNXRUNTIME, TENSORRT):
        folder = tmp_path / headers.variable
        folder.mkdir()
        (folder / headers.file).touch()
        monkeypatch.setenv(headers.variable, str(folder))
    parts = {part.name: part for part in collect([]).parts}
    assert (parts["C++ compiler"].version, parts["CMake"].version) == ("12.2.0", "3.25.1")
    assert parts["nvcc"].where is None
    assert "not found: install NVIDIA's CUDA toolkit  [CUDA, TensorRT]" in collect([]).table()
    assert parts["ONNX Runtime's headers"].where == tmp_path / "ORT_INCLUDE_DIR"
    assert parts["TensorRT's headers"].where == tmp_path / "TENSORRT_INCLUDE_DIR"


def test_lists_openvino_or_its_fix(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> Path:
        raise PluginError("openvino is not installed")

    monkeypatch.setattr("idol_plugins.info.openvino_release", lambda: "2026.4.1")
    monkeypatch.setattr("idol_plugins.info.openvino_cmake", lambda: Path("/site/openvino/cmake"))
    assert "/site/openvino  2026.4.1  [OpenVINO]" in collect([]).table()
    monkeypatch.setattr("idol_plugins.info.openvino_cmake", missing)
    assert "not found: pip install 'idol-deploy[openvino]'  [OpenVINO]" in collect([]).table()
