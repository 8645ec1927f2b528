"""The operator in ONNX Runtime: types, shapes, threads, refusals."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from idol_plugins.cases import pack, unpack
from idol_plugins.ort import DOMAIN, OPERATOR, VERSION, serves_cuda
from idol_plugins.reference import Shapes, deformable_attention
from idol_plugins.trt import NODE_ATTRIBUTES

onnx = pytest.importorskip("onnx", reason="graphs are made with onnx")
ort = pytest.importorskip("onnxruntime", reason="the operator is one of ONNX Runtime")

SHAPES: Shapes = ((9, 14), (5, 7), (3, 4), (1, 1))
N, S, Q, M, D, P = 2, 174, 37, 8, 32, 4
FLOAT, HALF, BFLOAT = 1, 10, 16


def make_graph(
    value: int, merged: int, *, heads: int = M, batch: int | str = N, tokens: int | str = S
) -> bytes:
    info, node = onnx.helper.make_tensor_value_info, onnx.helper.make_node
    sides = [side for shape in SHAPES for side in shape]
    inputs = [
        info("value", value, [batch, tokens, M, D]),
        info("merged", merged, [batch, Q, 3 * M * len(SHAPES) * P]),
        info("reference", FLOAT, ["references", Q, len(SHAPES), 4]),
    ]
    operator = node(
        OPERATOR,
        ["value", "merged", "reference"],
        ["out"],
        domain=DOMAIN,
        heads=heads,
        points=P,
        shapes=sides,
        **NODE_ATTRIBUTES,  # for TensorRT, to which the same node is a plugin
    )
    graph = onnx.helper.make_graph([operator], "graph", inputs, [info("out", value, None)])
    opsets = [onnx.helper.make_opsetid("", 18), onnx.helper.make_opsetid(DOMAIN, VERSION)]
    data: bytes = onnx.helper.make_model(graph, opset_imports=opsets, ir_version=9).SerializeToString()
    return data


def start(library: Path, graph: bytes) -> Any:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 2
    options.log_severity_level = 4
    options.register_custom_ops_library(str(library))
    return ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


def feed(value: str, merged: str) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        "value": rng.standard_normal((N, S, M, D)).astype(value),
        "merged": 2 * rng.standard_normal((N, Q, 3 * M * len(SHAPES) * P)).astype(merged),
        "reference": rng.uniform(0, 1, (1, Q, len(SHAPES), 4)).astype(np.float32),
    }


def expected(fed: dict[str, np.ndarray]) -> np.ndarray:
    offsets, logits = np.split(fed["merged"].astype(np.float64), [2 * M * len(SHAPES) * P], -1)
    return deformable_attention(
        fed["value"].astype(np.float64),
        SHAPES,
        offsets.reshape(N, Q, M, len(SHAPES), P, 2),
        logits.reshape(N, Q, M, -1),
        fed["reference"].astype(np.float64),
    )


@pytest.mark.parametrize(
    ("types", "names", "tolerance"),
    [
        ((FLOAT, FLOAT), ("float32", "float32"), 1e-5),
        ((HALF, HALF), ("float16", "float16"), 1e-3),  # half a step of the output's type is 2.4e-4
        ((HALF, FLOAT), ("float16", "float32"), 1e-3),
    ],
)
@pytest.mark.parametrize("batch", [N, "batch"])
def test_equals_the_reference(
    ort_operator: Path,
    relative_error: Callable[..., float],
    types: tuple[int, int],
    names: tuple[str, str],
    tolerance: float,
    batch: int | str,
) -> None:
    session, fed = start(ort_operator, make_graph(*types, batch=batch)), feed(*names)
    assert session.get_outputs()[0].shape == [batch, Q, M * D]
    (out,) = session.run(None, fed)
    assert out.dtype == fed["value"].dtype
    assert relative_error(out, expected(fed)) <= tolerance


def with_casts(graph: bytes, dtype: int) -> bytes:
    """Return the graph with float32 for value and output, because numpy has no bfloat16."""
    model = onnx.load_from_string(graph)
    cast = onnx.helper.make_node
    model.graph.node[0].input[0], model.graph.node[0].output[0] = "narrow", "mixed"
    model.graph.node.insert(0, cast("Cast", ["value"], ["narrow"], to=dtype))
    model.graph.node.append(cast("Cast", ["mixed"], ["out"], to=FLOAT))
    for info in (model.graph.input[0], model.graph.output[0]):
        info.type.tensor_type.elem_type = FLOAT
    data: bytes = model.SerializeToString()
    return data


def test_computes_bfloat16_values(ort_operator: Path, relative_error: Callable[..., float]) -> None:
    graph = make_graph(BFLOAT, FLOAT)
    assert start(ort_operator, graph).get_outputs()[0].type == "tensor(bfloat16)"
    fed = feed("float32", "float32")
    (out,) = start(ort_operator, with_casts(graph, BFLOAT)).run(None, fed)
    rounded = unpack(pack(fed["value"], "bfloat16"), "bfloat16")
    error = relative_error(out, expected(fed | {"value": rounded}))
    assert 1e-4 < error <= 1e-2  # half a step is 2e-3; less than 1e-4 would not be bfloat16


def test_refuses_other_types(ort_operator: Path) -> None:
    with pytest.raises(Exception, match=r"(?i)type|implementation"):
        start(ort_operator, make_graph(BFLOAT, BFLOAT))


def test_refuses_what_does_not_fit(ort_operator: Path) -> None:
    fed = feed("float32", "float32")
    with pytest.raises(Exception, match="attribute heads"):
        start(ort_operator, make_graph(FLOAT, FLOAT, heads=4)).run(None, fed)
    session = start(ort_operator, make_graph(FLOAT, FLOAT, tokens="tokens"))
    with pytest.raises(Exception, match="cells of all levels"):
        session.run(None, fed | {"value": fed["value"][:, 1:].copy()})
    with pytest.raises(Exception, match="reference"):
        start(ort_operator, make_graph(FLOAT, FLOAT)).run(
            None, fed | {"reference": np.zeros((3, Q, 4, 4), np.float32)}
        )


def test_a_library_says_whether_it_serves_cuda(ort_operator: Path, tmp_path: Path) -> None:
    assert not serves_cuda(ort_operator)
    (tmp_path / "with_cuda.so").write_bytes(ort_operator.read_bytes() + b"CUDAExecutionProvider\0")
    assert serves_cuda(tmp_path / "with_cuda.so")
