"""Weights in 16 bits: half the bytes, and the same answers to the last bit."""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from idol_export.graph.storage import in_half_precision
from idol_runtime.backends.onnxruntime import import_onnxruntime

RNG = np.random.default_rng(0)
ROUNDED = RNG.normal(size=(48, 64)).astype(np.float16).astype(np.float32)
EXACT_ONLY_IN_FP32 = np.sin(RNG.uniform(0, 3e6, (5, 64))).astype(np.float32)
LARGE = np.full((5, 64), 1e6, np.float32)


def _graph() -> bytes:
    names = {"weight": ROUNDED, "code": EXACT_ONLY_IN_FP32, "large": LARGE, "bias": ROUNDED[0, :1].copy()}
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
    stored = onnx.load_model_from_string(in_half_precision(_graph()))
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
        for graph in (_graph(), in_half_precision(_graph()))
    ]
    np.testing.assert_array_equal(*answers)
    assert len(in_half_precision(_graph())) < len(_graph()) - ROUNDED.size * 2 + 300
