"""The operator in OpenVINO: releases, types, shapes, threads, refusals."""

import importlib.metadata
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from idol_plugins.cases import Case, make_cases
from idol_plugins.errors import PluginError
from idol_plugins.headers import openvino_cmake
from idol_plugins.openvino import core_with_operator, import_openvino, openvino_library, run_case
from idol_plugins.ort import one_node_graph
from idol_plugins.selftest import difference
from idol_plugins.trt import NODE_ATTRIBUTES

onnx = pytest.importorskip("onnx", reason="graphs are made with onnx")
CASES = {case.title: case for case in make_cases(count=4)}
POINTS = CASES["points, float32 values, float32 projections"]


def arrays(case: Case) -> list[np.ndarray]:
    """Return the inputs of the operator."""
    return [case.value, case.merged, case.reference]


INPUTS = arrays(POINTS)  # [2, 174, 8, 32], [2, 11, 384], [2, 11, 4, 2]


@pytest.fixture(scope="module")
def library(libraries: Path) -> Path:
    pytest.importorskip("openvino", reason="the operator is one of OpenVINO")
    return openvino_library(libraries)


@pytest.fixture(scope="module")
def core(library: Path) -> Any:
    return core_with_operator(library)


def releases(monkeypatch: pytest.MonkeyPatch, release: str | None) -> None:
    """Let the installed release of OpenVINO be another; None: let it be missing."""

    def version(name: str) -> str:
        if release is None:
            raise importlib.metadata.PackageNotFoundError(name)
        return {"openvino": release}[name]

    monkeypatch.setattr(importlib.metadata, "version", version)


def test_a_library_is_for_one_release(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    releases(monkeypatch, "2026.4.1")
    with pytest.raises(PluginError, match=r"for OpenVINO 2026\.4\.1 is not built; .*plugins build"):
        openvino_library(tmp_path)
    (tmp_path / "libidol_deform_attn_openvino-2025.3.0.so").touch()
    with pytest.raises(
        PluginError, match=r"for OpenVINO 2025\.3\.0, but 2026\.4\.1 is .*plugins build.*==2025\.3\.0"
    ):
        openvino_library(tmp_path)
    (tmp_path / "libidol_deform_attn_openvino-2026.4.1.so").touch()
    assert openvino_library(tmp_path).stem.endswith("2026.4.1")


def test_a_library_that_cannot_be_loaded_is_named(tmp_path: Path) -> None:
    pytest.importorskip("openvino", reason="the operator is one of OpenVINO")
    (tmp_path / "broken.so").touch()
    with pytest.raises(PluginError, match=r"OpenVINO cannot load .*broken\.so .*build it again"):
        core_with_operator(tmp_path / "broken.so")


@pytest.mark.parametrize(
    ("release", "reason"), [(None, "not installed"), ("2025.0.0", r"older than 2025\.1")]
)
def test_a_missing_or_old_openvino(monkeypatch: pytest.MonkeyPatch, release: str | None, reason: str) -> None:
    releases(monkeypatch, release)
    with pytest.raises(PluginError, match=rf"{reason}; pip install 'idol-deploy\[openvino\]'"):
        openvino_cmake()


def test_an_openvino_without_headers(monkeypatch: pytest.MonkeyPatch) -> None:
    releases(monkeypatch, "2026.4.1")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(PluginError, match=r"no C\+\+ headers; .* openvino==2026\.4\.1"):
        openvino_cmake()


def test_loads_into_a_new_process_and_reports_no_usage(library: Path, tmp_path: Path) -> None:
    code = """if True:
        import sys
        from idol_plugins.openvino import import_openvino
        import_openvino().Core().add_extension(sys.argv[1])
        assert "openvino_telemetry" not in sys.modules"""
    environment = {key: value for key, value in os.environ.items() if key != "CI"}
    command = [sys.executable, "-c", code, str(library)]
    subprocess.run(command, check=True, env=environment | {"HOME": str(tmp_path)})
    assert not list(tmp_path.iterdir())  # a client id, which the telemetry writes


@pytest.mark.parametrize("title", CASES)
def test_equals_the_reference(core: Any, title: str) -> None:
    case = CASES[title]
    error, problem = difference(run_case(core, case), case.expected)
    assert not problem
    # OpenVINO converts float16 to float32. Half a step of bfloat16 is 2e-3.
    assert error <= (1e-2 if case.dtype == "bfloat16" else 1e-5)


@pytest.mark.parametrize("merged", ["float16", "float32"])
def test_computes_float16_outside_of_the_cpu_plugin(core: Any, merged: str) -> None:
    openvino = import_openvino()
    case = CASES[f"boxes, float16 values, {merged} projections"]
    inputs = [openvino.Tensor(array) for array in arrays(case)]
    out = [openvino.Tensor(np.zeros(case.output_shape, np.float32))]
    assert core.read_model(one_node_graph(case), b"").evaluate(out, inputs)
    error, problem = difference(out[0].data, case.expected)
    assert not problem
    assert 1e-5 < error <= 1e-3  # less would not be float16, of which half a step is 2.4e-4


def test_requests_run_in_parallel(core: Any) -> None:
    openvino = import_openvino()
    cases = [case for case in CASES.values() if case.dtype == "float32" and case.shapes == POINTS.shapes]
    cases = [
        case for case in cases if [array.shape for array in arrays(case)] == [array.shape for array in INPUTS]
    ]
    assert len(cases) > 5
    hints = {"INFERENCE_PRECISION_HINT": "f32", "NUM_STREAMS": 4, "INFERENCE_NUM_THREADS": 8}
    model = core.compile_model(core.read_model(one_node_graph(POINTS), b""), "CPU", hints)
    alone = [model(arrays(case))[0].copy() for case in cases]
    outputs: dict[int, np.ndarray] = {}
    queue = openvino.AsyncInferQueue(model, 4)
    queue.set_callback(lambda request, key: outputs.update({key: request.get_output_tensor().data.copy()}))
    for turn in range(20 * len(cases)):
        case = cases[turn % len(cases)]
        queue.start_async(arrays(case), turn)
    queue.wait_all()
    assert len(outputs) == 20 * len(cases)
    for turn, out in outputs.items():
        np.testing.assert_array_equal(out, alone[turn % len(cases)])


def test_a_cached_model_has_the_operator(library: Path, tmp_path: Path) -> None:
    outputs, hits = [], []
    for _ in range(2):
        core = core_with_operator(library)
        core.set_property({"CACHE_DIR": str(tmp_path)})
        model = core.compile_model(
            core.read_model(one_node_graph(POINTS), b""), "CPU", {"INFERENCE_PRECISION_HINT": "f32"}
        )
        hits.append(model.get_property("LOADED_FROM_CACHE"))
        outputs.append(model(INPUTS)[0])
    assert hits == [False, True]
    np.testing.assert_array_equal(*outputs)


Change = Callable[[Any], None]


def attribute(name: str, value: Any) -> Change:
    """Return a change of a graph that replaces an attribute of the operator; None: that removes it."""

    def change(graph: Any) -> None:
        node = next(node for node in graph.node if node.op_type == "DeformAttn")
        others = [other for other in node.attribute if other.name != name]
        del node.attribute[:]
        node.attribute.extend(others)
        if value is not None:
            node.attribute.append(onnx.helper.make_attribute(name, value))

    return change


def types(value: int, merged: int) -> Change:
    """Return a change of the types of value and merged."""

    def change(graph: Any) -> None:
        for cast, dtype in zip(graph.node, (value, merged), strict=False):
            cast.attribute[0].i = dtype

    return change


def dynamic(graph: Any) -> None:
    """Make every dimension of the inputs and the output dynamic."""
    for info in (*graph.input, *graph.output):
        for axis, dimension in enumerate(info.type.tensor_type.shape.dim):
            dimension.dim_param = f"{info.name}_{axis}"


def compute(core: Any, change: Change, inputs: list[Any] = INPUTS) -> Any:
    """Return the output of the graph of POINTS after a change."""
    graph = onnx.load_from_string(one_node_graph(POINTS))
    change(graph.graph)
    model = core.read_model(graph.SerializeToString(), b"")
    return core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})(inputs)[0]


def test_attributes_for_other_engines_are_ignored(core: Any) -> None:
    def add(graph: Any) -> None:
        for name, value in NODE_ATTRIBUTES.items():
            attribute(name, value)(graph)

    np.testing.assert_array_equal(compute(core, add), run_case(core, POINTS))


def test_shapes_may_be_dynamic(core: Any) -> None:
    np.testing.assert_array_equal(compute(core, dynamic), run_case(core, POINTS))
    one = [POINTS.value[:1], POINTS.merged[:1, :5], POINTS.reference[:1, :5]]
    np.testing.assert_array_equal(compute(core, dynamic, one), run_case(core, POINTS)[:1, :5])


FLOAT, HALF, DOUBLE, BFLOAT = 1, 10, 11, 16
V, M, R = INPUTS


@pytest.mark.parametrize(
    ("change", "inputs", "message"),
    [
        (attribute("heads", 4), INPUTS, "third dimension is not the attribute heads"),
        (attribute("heads", 0), INPUTS, "heads or points is out of range"),
        (attribute("points", 2**62), INPUTS, "heads or points is out of range"),
        (attribute("heads", None), INPUTS, '"heads" is not set'),
        (attribute("points", 7), INPUTS, r"merged is not \[N, Q, 3 \* heads"),
        (attribute("shapes", [8, 12, 4]), INPUTS, "shapes must be h, w per level"),
        (attribute("shapes", [9, 14, 5, 7, 3, 4, 1, 2]), INPUTS, "cells of all levels"),
        (attribute("shapes", [-9, -14, 5, 7, 3, 4, 1, 1]), INPUTS, "sizes must be positive"),
        (types(BFLOAT, BFLOAT), INPUTS, "merged is f32, or f16 with f16 values"),
        (types(FLOAT, HALF), INPUTS, "merged is f32, or f16 with f16 values"),
        (types(DOUBLE, FLOAT), INPUTS, "value is f32, f16 or bf16"),
        (lambda graph: graph.node[2].input.pop(), INPUTS, "the inputs are value, merged and reference"),
        (dynamic, [V[:, 1:], M, R], "cells of all levels"),
        (dynamic, [V[:, :, 1:], M, R], "third dimension is not the attribute heads"),
        (dynamic, [V, M[:1], R], r"merged is not \[N, Q"),
        (dynamic, [V, M[:, 1:], R], "reference is not"),
        (dynamic, [V, M, R[:, :, 1:]], "reference is not"),
        (dynamic, [V, M, R[..., :1]], r"reference \[N or 1, Q, L, 2 or 4\]"),
        (dynamic, [V, M, np.tile(R, (2, 1, 1, 1))], r"reference \[N or 1, Q, L, 2 or 4\]"),
        (lambda graph: graph.input[1].type.tensor_type.shape.dim.pop(), INPUTS, "merged has 3"),
    ],
)
def test_refuses_what_does_not_fit(core: Any, change: Change, inputs: list[Any], message: str) -> None:
    with pytest.raises(RuntimeError, match=message):
        compute(core, change, inputs)
