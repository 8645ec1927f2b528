"""The operator in OpenVINO: releases, types, shapes, threads, refusals."""

import importlib.metadata
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from idol_plugins.cases import Case, make_cases
from idol_plugins.errors import PluginError
from idol_plugins.openvino import core_with_operator, openvino_library, run_case
from idol_plugins.ort import one_node_graph
from idol_plugins.selftest import difference

onnx = pytest.importorskip("onnx", reason="graphs are made with onnx")
CASES = {case.title: case for case in make_cases(count=4)}
POINTS = CASES["points, float32 values, float32 projections"]


@pytest.fixture(scope="module")
def library(libraries: Path) -> Path:
    pytest.importorskip("openvino", reason="the operator is one of OpenVINO; pip install openvino")
    return openvino_library(libraries)


@pytest.fixture(scope="module")
def core(library: Path) -> Any:
    return core_with_operator(library)


def one_node(case: Case, change: Callable[[Any], None] = lambda _: None) -> bytes:
    """Return the graph of a case after a change of its operator's node or inputs."""
    model = onnx.load_from_string(one_node_graph(case))
    change(model.graph)
    data: bytes = model.SerializeToString()
    return data


def test_a_library_is_for_one_release(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def release(name: str) -> str:
        return {"openvino": "2026.4.1"}[name]

    monkeypatch.setattr(importlib.metadata, "version", release)
    with pytest.raises(PluginError, match=r"for OpenVINO 2026\.4\.1 is not built; .*plugins build"):
        openvino_library(tmp_path)
    (tmp_path / "libidol_deform_attn_openvino-2025.3.0.so").touch()
    with pytest.raises(
        PluginError, match=r"for OpenVINO 2025\.3\.0, but 2026\.4\.1 is .*plugins build.*==2025\.3\.0"
    ):
        openvino_library(tmp_path)
    (tmp_path / "libidol_deform_attn_openvino-2026.4.1.so").touch()
    assert openvino_library(tmp_path).stem.endswith("2026.4.1")
    monkeypatch.undo()
    pytest.importorskip("openvino")
    with pytest.raises(PluginError, match=r"OpenVINO cannot load .*build it again"):
        core_with_operator(tmp_path / "libidol_deform_attn_openvino-2026.4.1.so")


def test_without_openvino_the_fix_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def missing(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", missing)
    with pytest.raises(PluginError, match=r"not installed; pip install 'idol-deploy\[openvino\]'"):
        openvino_library(tmp_path)


def test_loads_into_a_new_process(library: Path) -> None:
    code = "import sys, openvino; openvino.Core().add_extension(sys.argv[1])"
    subprocess.run([sys.executable, "-I", "-c", code, str(library)], check=True)


@pytest.mark.parametrize("title", CASES)
def test_equals_the_reference(core: Any, title: str) -> None:
    case = CASES[title]
    error, problem = difference(run_case(core, case), case.expected)
    # OpenVINO computes float16 in float32. Less than 1e-4 would not be bfloat16, of which half a step is 2e-3.
    assert not problem
    assert error <= (1e-2 if case.dtype == "bfloat16" else 1e-5)
