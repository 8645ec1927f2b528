"""What `plugins info` tells."""

import json
import os
import shutil
from pathlib import Path

import pytest

from idol_plugins.headers import ONNXRUNTIME, TENSORRT
from idol_plugins.home import Status, Variant
from idol_plugins.homes import CpuHome
from idol_plugins.info import collect


class Broken:
    """A home whose file is there and cannot be used."""

    name = "broken"
    title = "a broken home"

    def status(self) -> Status:
        return Status(Path("/lib.so"), why="it is torn", fix="mend it")

    def variants(self) -> list[Variant]:
        return []


def test_tells_of_what_is_here_and_what_is_not(libraries: Path, tmp_path: Path) -> None:
    library = libraries / "libidol_deform_attn_cpu.so"
    found = collect([CpuHome(library), CpuHome(tmp_path / "gone.so"), Broken()])
    table = found.table()
    assert f"ready     {library}  (scalar, vec128" in table
    assert "unusable  it is torn; mend it" in table
    assert [home["ready"] for home in json.loads(json.dumps(found.as_dict()))["homes"]] == [
        True,
        False,
        False,
    ]


def test_tells_what_building_needs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name, said in (("c++", "c++ (Some 1.2.3) 12.2.0"), ("cmake", "cmake version 3.25.1\n\nof others")):
        (tmp_path / name).write_text(f"#!/bin/sh\necho '{said}'\n")
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
    assert "not here: install NVIDIA's CUDA toolkit  [CUDA, TensorRT]" in collect([]).table()
    assert parts["ONNX Runtime's headers"].where == tmp_path / "ORT_INCLUDE_DIR"
    assert parts["TensorRT's headers"].where == tmp_path / "TENSORRT_INCLUDE_DIR"
