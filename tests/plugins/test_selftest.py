"""The state of the kernel targets, and their comparison with the reference implementation."""

import importlib.util
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from idol_plugins import selftest as module
from idol_plugins.cases import Case, make_cases
from idol_plugins.errors import PluginError
from idol_plugins.headers import ONNXRUNTIME, TENSORRT
from idol_plugins.libraries import FOLDER_VARIABLE
from idol_plugins.selftest import IMAGE, TARGETS, Status, Target, Variant, difference, selftest

Array = NDArray[np.floating]
CPU, ORT, OPENVINO, CUDA, TRT = TARGETS


@pytest.fixture
def empty_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A machine without libraries: the only folder that is searched."""
    for headers in (ONNXRUNTIME, TENSORRT):
        monkeypatch.delenv(headers.variable, raising=False)
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path))
    monkeypatch.setattr("idol_plugins.libraries.library_folders", lambda: iter([tmp_path]))
    return tmp_path


@pytest.mark.usefixtures("empty_folder")
@pytest.mark.parametrize("target", [*TARGETS, IMAGE], ids=lambda target: target.name)
def test_nothing_is_built(target: Target) -> None:
    if target is OPENVINO:
        pytest.importorskip("openvino", reason="the operator is one of OpenVINO")
    status = target.status()
    assert not status.ready
    assert status.file is None
    assert status.why.endswith("not built")
    assert "idol-deploy plugins build" in status.fix


@pytest.mark.parametrize(
    ("target", "library"),
    [(CPU, "cpu"), (ORT, "ort"), (CUDA, "cuda"), (TRT, "trt")],
    ids=lambda item: getattr(item, "name", item),
)
def test_a_broken_library_is_named(empty_folder: Path, target: Target, library: str) -> None:
    if library == "ort":
        pytest.importorskip("onnxruntime", reason="the operator is one of ONNX Runtime")
    path = empty_folder / f"libidol_deform_attn_{library}.so"
    path.write_bytes(b"nothing")
    status = target.status()
    assert not status.ready
    assert status.file == path
    assert "idol-deploy plugins build" in status.fix


def test_the_cpu_kernel_lists_its_instructions(libraries: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(FOLDER_VARIABLE, str(libraries))
    status = CPU.status()
    assert status.ready
    assert status.detail.startswith("scalar, vec128")


def test_the_operator_passes_in_every_type(ort_operator: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnx", reason="graphs are made with onnx")
    pytest.importorskip("onnxruntime", reason="the operator is one of ONNX Runtime")
    monkeypatch.setenv(FOLDER_VARIABLE, str(ort_operator.parent))
    report = selftest([ORT, OPENVINO], cases=4)
    assert not report.failures
    for outcome in report.outcomes:
        assert outcome.untested or set(outcome.errors) == {"float32", "float16", "bfloat16"}
    assert not report.outcomes[0].untested


def test_without_onnx_the_operator_is_not_tested(ort_operator: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnxruntime", reason="the operator is one of ONNX Runtime")
    monkeypatch.setenv(FOLDER_VARIABLE, str(ort_operator.parent))
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "onnx" else find(name))
    assert ORT.status().ready
    for target in (ORT, OPENVINO):
        with pytest.raises(PluginError, match="pip install onnx"):
            target.variants()


def test_an_engine_that_is_not_installed(empty_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (empty_folder / "libidol_deform_attn_ort.so").touch()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert "idol-deploy[cpu]" in ORT.status().fix


@pytest.mark.gpu
def test_the_cuda_kernel_passes() -> None:
    status = CUDA.status()
    if not status.ready:
        pytest.skip(f"the CUDA kernel: {status.why}; {status.fix}")
    assert not selftest([CUDA]).failures


def test_the_state_of_the_resize(libraries: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(FOLDER_VARIABLE, str(libraries))
    assert IMAGE.status() == Status(libraries / "libidol_image.so")
    broken = tmp_path / "libidol_image.so"
    broken.write_bytes(b"broken")
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path))
    status = IMAGE.status()
    assert (status.file, status.ready) == (broken, False)
    monkeypatch.setattr(module, "find_library", _missing)
    assert IMAGE.status() == Status(why="not built", fix="idol-deploy plugins build")


def _missing(name: str) -> Path:
    raise PluginError(f"{name} is not built")


def fake_target(corrupt: Callable[[Case, Array], Array] = lambda case, out: out) -> Target:
    """A target with the output of the reference implementation, changed by `corrupt`."""
    variant = Variant("straw", lambda case: corrupt(case, case.expected.astype(np.float32)))
    return Target("fake", "a fake target", Status, lambda: [variant])


def test_a_built_library_passes(libraries: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(FOLDER_VARIABLE, str(libraries))
    lines: list[str] = []
    report = selftest([CPU], cases=4, announce=lines.append)
    assert not report.failures
    scalar = next(outcome for outcome in report.outcomes if outcome.variant == "scalar")
    assert scalar.cases == len(make_cases(count=4))
    assert set(scalar.errors) == {"float32", "float16", "bfloat16"}
    assert 0 < scalar.errors["float32"] < 1e-5
    assert "testing CPU kernel, scalar" in lines
    assert report.as_dict()["passed"] is True


@pytest.mark.parametrize("name", ["points", "cell edges", "an encoder", "NaN logits"])
def test_one_wrong_number_in_one_case_is_found(name: str) -> None:
    def corrupt(case: Case, out: Array) -> Array:
        if (case.name, case.dtype) == (name, "float32"):
            out[0, -1, 3] += 1e-3
        return out

    report = selftest([fake_target(corrupt)], cases=0)
    (failure,) = report.failures
    assert failure.startswith(f"fake straw, {name}, float32 values, float32 projections: error ")
    assert "allowed 1e-05" in failure
    assert "1 FAILED" in report.table()
    assert report.as_dict()["passed"] is False


def test_a_number_for_a_nan_is_found() -> None:
    report = selftest([fake_target(lambda case, out: np.nan_to_num(out))], cases=0)
    assert {failure.split(", ")[1] for failure in report.failures} >= {"NaN logits", "infinite logits"}
    assert all("the reference has nan" in failure for failure in report.failures)


def test_a_target_that_raises_fails_by_name() -> None:
    def corrupt(case: Case, out: Array) -> Array:
        if case.name == "no queries":
            raise ValueError("of nothing\ncomes nothing")
        return out

    failures = selftest([fake_target(corrupt)], cases=0).failures
    assert len(failures) == 4
    assert failures[0].endswith("ValueError: of nothing comes nothing")


def test_a_missing_target_is_reported_and_the_others_are_tested() -> None:
    absent = replace(fake_target(), status=lambda: Status(why="not built", fix="build it"))
    report = selftest([absent, fake_target()], cases=0)
    assert report.outcomes[0].untested == "not built; build it"
    assert not report.failures
    assert "not tested: not built; build it" in report.table()
    with pytest.raises(PluginError, match="idol-deploy plugins build"):
        selftest([absent], cases=0)


@pytest.mark.parametrize(
    ("output", "expected", "problem"),
    [
        ([1.0, 2.0], [1.0, 2.0], ""),
        ([1.0], [1.0, 2.0], "the output is (1,), not (2,)"),
        ([1.0, np.inf], [1.0, 2.0], "inf at [1]"),
        ([np.inf, 1.0], [-np.inf, 1.0], "reference has -inf"),
        ([0.0, 1e-9], [0.0, 0.0], "not zero"),
    ],
)
def test_difference(output: list[float], expected: list[float], problem: str) -> None:
    error, message = difference(np.array(output), np.array(expected))
    assert problem in message
    assert bool(problem) == bool(message)
    assert error == 0


def test_difference_is_relative() -> None:
    assert difference(np.array([3.0, 4.5, np.nan]), np.array([3.0, 4.0, np.nan])) == (0.1, "")
