"""The build command: its requirements, results and error messages."""

import os
import shutil
from pathlib import Path

import pytest

from idol_plugins import build as module
from idol_plugins.build import build, compiler, main
from idol_plugins.errors import PluginError


def test_builds_into_the_folder(libraries: Path) -> None:
    assert (libraries / "libidol_deform_attn_cpu.so").is_file()
    assert not list(libraries.glob(".*"))


def test_without_cmake_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(shutil, "which", lambda _: None)
    with pytest.raises(PluginError, match="cmake is not installed"):
        build(tmp_path)
    with pytest.raises(PluginError, match=r"no C\+\+ compiler"):
        compiler()


def test_missing_headers_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if not shutil.which("cmake"):
        pytest.skip("there is no cmake here")
    assert main(["--into", str(tmp_path), "--ort-include", str(tmp_path)]) == 2
    assert "onnxruntime_c_api.h" in capsys.readouterr().err
    assert main(["--into", str(tmp_path), "--tensorrt-include", str(tmp_path)]) == 2
    assert "NvInfer.h" in capsys.readouterr().err
    (tmp_path / "NvInfer.h").touch()
    assert main(["--into", str(tmp_path), "--tensorrt-include", str(tmp_path)]) == 2
    assert "add --cuda" in capsys.readouterr().err


@pytest.mark.parametrize("below", [".", "deep/er"])
def test_an_unusable_folder_is_reported_before_the_compilation(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, below: str
) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: name)
    monkeypatch.setattr(module, "_run", lambda _: pytest.fail("this compiles"))
    file = tmp_path / "README.md"
    file.touch()
    with pytest.raises(PluginError, match=r"README\.md is a file; choose another folder with --into"):
        build(file / below)
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(PluginError, match="permission denied; choose another folder with --into"):
        build(tmp_path / below)


def test_a_failing_compiler_is_quoted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    if not shutil.which("cmake"):
        pytest.skip("there is no cmake here")
    monkeypatch.setenv("CXX", "/bin/false")
    with pytest.raises(PluginError, match=r"(?s)building the plugins failed.*C\+\+17"):
        build(tmp_path)
