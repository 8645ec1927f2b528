"""Means move from one bias to others: the same answer in fp32, and far less of it lost in fewer bits."""

from collections.abc import Mapping

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from idol_export.centring import centred
from idol_export.editing import Editor
from idol_export.half_graph import emulated
from idol_runtime.backends.onnxruntime import open_session, run_session

RNG = np.random.default_rng(0)
IMAGE = RNG.integers(0, 256, (16, 24, 3), dtype=np.uint8)
FAR = 300 * RNG.normal(size=(2, 8))  # means of two values, next to spreads of one


def _conv(name: str, shape: tuple[int, ...], bias: np.ndarray) -> dict[str, np.ndarray]:
    weight = RNG.normal(size=shape) / np.sqrt(np.prod(shape[1:]))
    return {f"{name}_w": weight.astype(np.float32), f"{name}_b": bias.astype(np.float32)}


def _bottlenecks() -> bytes:
    """Two linear blocks with a residual; one of one pixel, one of nine and a pooling read their sum."""
    tensors: dict[str, np.ndarray] = {"scale": np.array(1 / 255, np.float32)}
    tensors |= _conv("first", (8, 3, 3, 3), FAR[0])
    tensors |= _conv("expand", (16, 8, 1, 1), np.zeros(16))
    tensors["expand_b"] = (-(tensors["expand_w"][:, :, 0, 0] @ FAR[0])).astype(np.float32)
    tensors |= _conv("project", (8, 16, 1, 1), FAR[1])
    tensors |= _conv("pixel", (8, 8, 1, 1), np.zeros(8))
    tensors["pixel_b"] = (-(tensors["pixel_w"][:, :, 0, 0] @ FAR.sum(0))).astype(np.float32)
    tensors |= _conv("padded", (8, 8, 3, 3), np.zeros(8))
    pads = [1, 1, 1, 1]
    nodes = [
        helper.make_node("Cast", ["image"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["float", "scale"], ["unit"]),
        helper.make_node("Transpose", ["unit"], ["x"], perm=[0, 3, 1, 2]),
        helper.make_node("Conv", ["x", "first_w", "first_b"], ["block1"], pads=pads),
        helper.make_node("Conv", ["block1", "expand_w", "expand_b"], ["wide"]),
        helper.make_node("Relu", ["wide"], ["active"]),
        helper.make_node("Conv", ["active", "project_w", "project_b"], ["projected"]),
        helper.make_node("Add", ["projected", "block1"], ["block2"]),
        helper.make_node("Conv", ["block2", "pixel_w", "pixel_b"], ["pixel"], strides=[2, 2]),
        helper.make_node("Conv", ["block2", "padded_w", "padded_b"], ["padded"], pads=pads),
        helper.make_node("GlobalAveragePool", ["block2"], ["pooled"]),
    ]
    shapes = {"pixel": [1, 8, 8, 12], "padded": [1, 8, 16, 24], "pooled": [1, 8, 1, 1]}
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, [1, 16, 24, 3])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()],
        [numpy_helper.from_array(array, name) for name, array in tensors.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    data: bytes = onnx.shape_inference.infer_shapes(model, strict_mode=True).SerializeToString()
    return data


def _run(graph: bytes, image: np.ndarray = IMAGE) -> Mapping[str, np.ndarray]:
    return run_session(open_session(graph), ("pixel", "padded", "pooled"), image[None])


def test_the_answer_is_the_same() -> None:
    """Of another image than the means', borders of the padded convolution included."""
    graph = _bottlenecks()
    other = IMAGE[::-1, ::-1] // 2
    ours, theirs = _run(centred(graph, IMAGE), other), _run(graph, other)
    for name, answer in theirs.items():
        np.testing.assert_allclose(ours[name], answer, rtol=1e-4, atol=1e-3, err_msg=name)


def test_what_is_moved_is_around_zero_and_survives_rounding() -> None:
    graph = _bottlenecks()
    ours = centred(graph, IMAGE)
    exact = _run(graph)["pixel"]
    before, after = (
        np.linalg.norm(_run(emulated(g, (), "fp16"))["pixel"] - exact) / np.linalg.norm(exact)
        for g in (graph, ours)
    )
    assert before > 0.02
    assert after < 1e-3
    values = onnx.load_model_from_string(ours)
    del values.graph.output[:]
    for name in ("block1", "projected", "block2"):
        values.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, None))
    found = run_session(
        open_session(values.SerializeToString()), ("block1", "projected", "block2"), IMAGE[None]
    )
    for name, value in found.items():
        np.testing.assert_allclose(value.mean((0, 2, 3)), 0, atol=1e-3, err_msg=name)


def test_it_is_restored_once_for_all_others() -> None:
    """The padded convolution and the pooling, but not what the means were moved to."""
    editor = Editor(centred(_bottlenecks(), IMAGE))
    added = [node for node in editor.graph.node if node.op_type == "Add"]
    assert len(added) == 2
    assert {node.op_type for node in editor.consumers["block2_whole"]} == {"Conv", "GlobalAveragePool"}


@pytest.mark.parametrize("output", ["block1", "block2"])
def test_outputs_are_left_alone(output: str) -> None:
    model = onnx.load_model_from_string(_bottlenecks())
    model.graph.output.append(helper.make_tensor_value_info(output, TensorProto.FLOAT, None))
    graph = model.SerializeToString()
    ours, theirs = (
        run_session(open_session(g), (output,), IMAGE[None])[output] for g in (centred(graph, IMAGE), graph)
    )
    np.testing.assert_allclose(ours, theirs, rtol=1e-5)
