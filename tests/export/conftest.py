"""Fixtures of the export tests, besides the toy network of the whole suite."""

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper


@pytest.fixture(scope="session")
def sabotage() -> Callable[..., bytes]:
    """Return a function that changes every other value of a weight by 5 % of the largest, or sets it to a value."""

    def change(graph: bytes, name: str, value: float | None = None) -> bytes:
        model = onnx.load_model_from_string(graph)
        tensor = next(tensor for tensor in model.graph.initializer if tensor.name == name)
        array = numpy_helper.to_array(tensor).copy()
        # Every other value, because a normalisation subtracts what is added to all values of a group.
        half = array.reshape(-1)[::2]
        half[...] = half + np.float32(0.05) * np.abs(array).max() if value is None else value
        tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
        changed: bytes = model.SerializeToString()
        return changed

    return change


@pytest.fixture(scope="session")
def bottlenecks() -> bytes:
    """Two linear blocks, `block1` and `block2`, with means far from zero, and `pixel`, which is not.

    One convolution of one pixel, one of nine and a pooling read the sum of both.
    """
    rng = np.random.default_rng(0)
    far = 300 * rng.normal(size=(2, 8))  # means of two values, whose spread is 1
    tensors: dict[str, np.ndarray] = {"scale": np.array(1 / 255, np.float32)}

    def conv(name: str, shape: tuple[int, ...], bias: np.ndarray) -> None:
        weight = rng.normal(size=shape) / np.sqrt(np.prod(shape[1:]))
        tensors[f"{name}_w"], tensors[f"{name}_b"] = weight.astype(np.float32), bias.astype(np.float32)

    def undone(name: str, means: np.ndarray) -> None:
        tensors[f"{name}_b"] = (-(tensors[f"{name}_w"][:, :, 0, 0] @ means)).astype(np.float32)

    conv("first", (8, 3, 3, 3), far[0])
    conv("expand", (16, 8, 1, 1), np.zeros(16))
    undone("expand", far[0])
    conv("project", (8, 16, 1, 1), far[1])
    conv("pixel", (8, 8, 1, 1), np.zeros(8))
    undone("pixel", far.sum(0))
    conv("padded", (8, 8, 3, 3), np.zeros(8))
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
