"""Shared weights are stored once, every graph is complete with them, and fp16 storage is exact."""

from collections.abc import Sequence

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from idol_export.graph.weights import in_half_precision, part_weights, without_shared
from idol_runtime.backends.onnxruntime import import_onnxruntime
from idol_runtime.backends.openvino import _round_constants

RNG = np.random.default_rng(0)
LARGE, OTHER = RNG.normal(size=(2, 16, 32)).astype(np.float32)
SMALL = RNG.normal(size=32).astype(np.float32)


def _graph(**weights: np.ndarray) -> bytes:
    """Return a graph that adds weights to its input."""
    names = ["x", *weights]
    nodes = [
        helper.make_node("Add", [names[0] if i == 1 else f"sum{i - 1}", name], [f"sum{i}"])
        for i, name in enumerate(names)
        if i
    ]
    shape = [
        helper.make_tensor_value_info(n, TensorProto.FLOAT, [16, 32]) for n in ("x", nodes[-1].output[0])
    ]
    tensors = [numpy_helper.from_array(array, name) for name, array in weights.items()]
    graph = helper.make_graph(nodes, "sum", shape[:1], shape[1:], tensors)
    data: bytes = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)]).SerializeToString()
    return data


def _sum(graph: bytes) -> np.ndarray:
    model = onnx.load_model_from_string(graph)
    onnx.checker.check_model(model, full_check=True)
    total = sum(
        numpy_helper.to_array(t)
        for t in model.graph.initializer
        for n in model.graph.node
        if t.name in n.input
    )
    return np.asarray(total)


@pytest.mark.parametrize(
    "graphs",
    [
        [{"a": LARGE, "s": SMALL}, {"b": LARGE, "s": SMALL}],
        [{"a": LARGE, "b": OTHER}, {"b": LARGE, "a": OTHER}],
        [{"a": LARGE, "again": LARGE}, {"again": OTHER, "b": LARGE}],
        [{"a": LARGE}],
        [{"a": LARGE}, {"a": OTHER}],
        [{"a": LARGE}, {"a": LARGE.T.copy().reshape(16, 32)}],
    ],
    ids=["renamed", "swapped", "twice in one", "one graph", "nothing in common", "other order"],
)
def test_each_graph_is_whole_behind_the_weights(graphs: Sequence[dict[str, np.ndarray]]) -> None:
    weights, parts = part_weights([_graph(**graph) for graph in graphs])
    for graph, part in zip(graphs, parts, strict=True):
        np.testing.assert_allclose(_sum(weights + part), sum(graph.values()), rtol=1e-6)


def test_what_is_shared_is_stored_once() -> None:
    weights, parts = part_weights([_graph(a=LARGE, b=LARGE, s=SMALL), _graph(c=LARGE, d=OTHER)])
    assert weights.count(LARGE.tobytes()) == 1
    assert [part.count(LARGE.tobytes()) for part in parts] == [0, 0]
    assert [part.count(OTHER.tobytes()) for part in parts] == [0, 1]


def test_another_graph_is_stored_without_the_shared_weights() -> None:
    weights, _ = part_weights([_graph(a=LARGE, s=SMALL), _graph(b=LARGE, c=OTHER)])
    part = without_shared(_graph(d=LARGE, s=SMALL), weights)
    assert part.count(LARGE.tobytes()) == 0
    np.testing.assert_allclose(_sum(weights + part), LARGE + SMALL, rtol=1e-6)


def test_a_graph_with_hardly_any_shared_weight_is_stored_whole() -> None:
    weights, _ = part_weights([_graph(a=LARGE, b=np.tile(OTHER, (12, 1)))] * 2)
    graph = _graph(a=LARGE)
    assert without_shared(graph, weights) == graph
    assert without_shared(_graph(a=SMALL), weights) == _graph(a=SMALL)


HALF = LARGE.astype(np.float16)


@pytest.mark.parametrize(
    ("stored", "kind"),
    [
        (LARGE, np.float16),
        (LARGE, ml_dtypes.bfloat16),
        (HALF, np.float32),
        (HALF, ml_dtypes.bfloat16),
    ],
    ids=str,
)
def test_a_shared_weight_in_another_type_becomes_a_cast_of_it(stored: np.ndarray, kind: type) -> None:
    weights, _ = part_weights([_graph(a=stored, s=SMALL)] * 2)
    rounded = stored.astype(np.float32).astype(kind)
    values = [helper.make_tensor_value_info("y", helper.np_dtype_to_tensor_dtype(rounded.dtype), [16, 32])]
    node = helper.make_node("Identity", ["w"], ["y"])
    graph = helper.make_graph([node], "g", [], values, [numpy_helper.from_array(rounded, "w")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    part = without_shared(model.SerializeToString(), weights)
    assert not onnx.load_model_from_string(part).graph.initializer
    found = ReferenceEvaluator(onnx.load_model_from_string(weights + part)).run(None, {})[0]
    np.testing.assert_array_equal(found.astype(np.float32), rounded.astype(np.float32))


def test_openvino_casts_to_bf16_as_onnx_asks_for() -> None:
    engine = pytest.importorskip("openvino", reason="OpenVINO is not installed")
    ops = pytest.importorskip("openvino.opset13")
    model = engine.Model([ops.convert(ops.convert(ops.constant(HALF), "bf16"), "f32")], [])
    _round_constants(model)
    compiled = engine.Core().compile_model(model, "CPU", {"EXECUTION_MODE_HINT": "ACCURACY"})
    expected = HALF.astype(ml_dtypes.bfloat16).astype(np.float32)
    np.testing.assert_array_equal(compiled([])[0], expected)


def test_another_weight_of_this_type_stays() -> None:
    weights, _ = part_weights([_graph(a=LARGE)] * 2)
    graph = _graph(a=LARGE, b=(LARGE + 1e-3).astype(np.float16), c=LARGE.astype(np.float16))
    part = without_shared(graph, weights)
    (own,) = onnx.load_model_from_string(part).graph.initializer
    assert own.name == "b"


ROUNDED = RNG.normal(size=(48, 64)).astype(np.float16).astype(np.float32)
EXACT_ONLY_IN_FP32 = np.sin(RNG.uniform(0, 3e6, (5, 64))).astype(np.float32)
TOO_LARGE = np.full((5, 64), 1e6, np.float32)


def _stored_graph() -> bytes:
    names = {"weight": ROUNDED, "code": EXACT_ONLY_IN_FP32, "large": TOO_LARGE, "bias": ROUNDED[0, :1].copy()}
    nodes = [
        helper.make_node("MatMul", ["x", "weight"], ["product"]),
        helper.make_node("Add", ["product", "code"], ["coded"]),
        helper.make_node("Add", ["coded", "large"], ["moved"]),
        helper.make_node("Add", ["moved", "bias"], ["y"]),
    ]
    values = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [5, side])
        for name, side in (("x", 48), ("y", 64))
    ]
    tensors = [numpy_helper.from_array(array, name) for name, array in names.items()]
    graph = helper.make_graph(nodes, "g", values[:1], values[1:], tensors)
    data: bytes = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9
    ).SerializeToString()
    return data


def test_only_what_fp16_holds_exactly_is_stored_in_it() -> None:
    stored = onnx.load_model_from_string(in_half_precision(_stored_graph()))
    kinds = {tensor.name: tensor.data_type for tensor in stored.graph.initializer}
    assert kinds == {
        "weight_half": TensorProto.FLOAT16,
        "code": TensorProto.FLOAT,
        "large": TensorProto.FLOAT,
        "bias": TensorProto.FLOAT,
    }


def test_the_answers_are_the_same() -> None:
    runtime = import_onnxruntime()
    x = RNG.normal(size=(5, 48)).astype(np.float32)
    answers = [
        runtime.InferenceSession(graph, providers=["CPUExecutionProvider"]).run(None, {"x": x})[0]
        for graph in (_stored_graph(), in_half_precision(_stored_graph()))
    ]
    np.testing.assert_array_equal(*answers)
    assert len(in_half_precision(_stored_graph())) < len(_stored_graph()) - ROUNDED.size * 2 + 300
