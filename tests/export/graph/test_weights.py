"""Weights that graphs share are stored once, and every graph is whole again behind them."""

from collections.abc import Sequence

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from idol_export.graph.weights import part_weights

RNG = np.random.default_rng(0)
LARGE, OTHER = RNG.normal(size=(2, 16, 32)).astype(np.float32)
SMALL = RNG.normal(size=32).astype(np.float32)


def _graph(**weights: np.ndarray) -> bytes:
    """The sum of an input and of these."""
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
