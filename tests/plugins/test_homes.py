"""Homes say what they are, or why they are not."""

import importlib.util
from pathlib import Path

import pytest

from idol_plugins import homes
from idol_plugins.errors import PluginError
from idol_plugins.headers import ONNXRUNTIME, TENSORRT
from idol_plugins.home import Status
from idol_plugins.homes import CpuHome, CudaHome, ImageHome, OrtHome, TensorRtHome, all_homes
from idol_plugins.libraries import FOLDER_VARIABLE
from idol_plugins.selftest import selftest


@pytest.fixture
def nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A machine without libraries; the only folder that is looked in."""
    for headers in (ONNXRUNTIME, TENSORRT):
        monkeypatch.delenv(headers.variable, raising=False)
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path))
    monkeypatch.setattr("idol_plugins.libraries.library_folders", lambda: iter([tmp_path]))
    return tmp_path


@pytest.mark.usefixtures("nothing")
def test_nothing_is_built() -> None:
    for home in all_homes():
        status = home.status()
        assert not status.ready
        assert status.file is None
        assert status.why == "not built"
        assert status.fix.startswith("idol-deploy plugins build")


@pytest.mark.parametrize(
    ("home", "library"),
    [(CpuHome, "cpu"), (OrtHome, "ort"), (CudaHome, "cuda"), (TensorRtHome, "trt")],
)
def test_a_library_that_is_none_is_named(nothing: Path, home: type, library: str) -> None:
    if library == "ort":
        pytest.importorskip("onnxruntime", reason="the operator is one of ONNX Runtime")
    path = nothing / f"libidol_deform_attn_{library}.so"
    path.write_bytes(b"nothing")
    status = home().status()
    assert not status.ready
    assert status.file == path
    assert "idol-deploy plugins build" in status.fix


def test_the_cpu_kernel_tells_its_instructions(libraries: Path) -> None:
    status = CpuHome(libraries / "libidol_deform_attn_cpu.so").status()
    assert status.ready
    assert status.detail.startswith("scalar, vec128")


def test_the_operator_passes_in_every_type(ort_operator: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnx", reason="graphs are made with onnx")
    pytest.importorskip("onnxruntime", reason="the operator is one of ONNX Runtime")
    monkeypatch.setenv(FOLDER_VARIABLE, str(ort_operator.parent))
    report = selftest([OrtHome()], cases=4)
    assert not report.failures
    assert set(report.outcomes[0].errors) == {"float32", "float16", "bfloat16"}


def test_without_onnx_the_operator_is_not_tested(ort_operator: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnxruntime", reason="the operator is one of ONNX Runtime")
    monkeypatch.setenv(FOLDER_VARIABLE, str(ort_operator.parent))
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "onnx" else find(name))
    assert OrtHome().status().ready
    with pytest.raises(PluginError, match="pip install onnx"):
        OrtHome().variants()


def test_an_engine_that_is_not_installed(nothing: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (nothing / "libidol_deform_attn_ort.so").touch()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert "idol-deploy[cpu]" in OrtHome().status().fix


@pytest.mark.gpu
def test_the_cuda_kernel_passes() -> None:
    status = CudaHome().status()
    if not status.ready:
        pytest.skip(f"the CUDA kernel: {status.why}; {status.fix}")
    assert not selftest([CudaHome()]).failures


def test_info_tells_whether_it_is_here(
    libraries: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IDOL_PLUGINS", str(libraries))
    assert ImageHome().status() == Status(libraries / "libidol_image.so")
    torn = tmp_path / "libidol_image.so"
    torn.write_bytes(b"torn")
    monkeypatch.setenv("IDOL_PLUGINS", str(tmp_path))
    found = ImageHome().status()
    assert (found.file, found.ready) == (torn, False)
    monkeypatch.setattr(homes, "find_library", _missing)
    assert ImageHome().status() == Status(why="not built", fix="idol-deploy plugins build")


def _missing(name: str) -> Path:
    raise PluginError(f"{name} is not built")
