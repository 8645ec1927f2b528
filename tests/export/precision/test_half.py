"""16-bit graphs: the type of every value, and the size of the rounding error."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from idol_export.graph.adapter import ExportGraph
from idol_export.graph.operator import CORES, with_core
from idol_export.graph.tracing import probe_to_onnx, shipped
from idol_export.precision.editor import Editor
from idol_export.precision.half import (
    Half,
    coordinates,
    emulated,
    islands_of,
    linear_blocks,
    pixels,
    sensitive,
    to_half,
)
from idol_runtime.backends.onnxruntime import open_session, run_session
from idol_runtime.bundle.bundle import OUTPUT_NAMES
from idol_runtime.bundle.certificates import Fp32Name

if TYPE_CHECKING:
    from tests.conftest import Toy


def _error(toy: Toy, graph: bytes, names: Sequence[str] = OUTPUT_NAMES) -> float:
    """Return the largest error of the outputs."""
    frame = toy.video(1)
    found, exact = (run_session(open_session(g), names, frame) for g in (graph, toy.graph))
    errors = {n: float(np.linalg.norm(found[n] - exact[n]) / np.linalg.norm(exact[n])) for n in names}
    return max(errors.values())


def test_fp16_is_strongly_typed_but_for_its_islands(toy: Toy) -> None:
    """The ONNX checker infers every type and checks the types of each operator."""
    model = onnx.load_model_from_string(to_half(toy.graph, islands_of(toy.graph)))
    onnx.checker.check_model(model, full_check=True)
    assert {value.type.tensor_type.elem_type for value in model.graph.output} == {TensorProto.FLOAT}
    types = {
        value.name: value.type.tensor_type.elem_type
        for value in onnx.shape_inference.infer_shapes(model, strict_mode=True).graph.value_info
    }
    kinds: dict[str, set[int]] = {}
    for node in model.graph.node:
        kinds.setdefault(node.op_type, set()).update(types[name] for name in node.output if name in types)
    assert kinds["Conv"] == {TensorProto.FLOAT16}
    assert kinds["MatMul"] == {TensorProto.FLOAT16, TensorProto.FLOAT}, "fp32 are those that make boxes"
    for kind in ("LayerNormalization", "Softmax", "Floor", "Abs"):
        assert kinds[kind] == {TensorProto.FLOAT}, kind
    gathered = {
        types[node.output[0]]
        for node in model.graph.node
        if node.op_type == "Gather" and node.input[1] in types
    }
    assert gathered == {TensorProto.FLOAT16}, "the largest values of the attention"


def test_no_island_at_all_is_a_graph_as_well(toy: Toy) -> None:
    kinds = {tensor.data_type for tensor in Editor(to_half(toy.graph, ())).graph.initializer}
    assert TensorProto.FLOAT not in kinds


@pytest.mark.parametrize(("half", "least", "most"), [("fp16", 1e-4, 2e-2), ("bf16", 2e-3, 0.2)])
def test_emulation_rounds_as_often_as_the_type_does(toy: Toy, half: Half, least: float, most: float) -> None:
    assert least < _error(toy, emulated(toy.graph, islands_of(toy.graph), half)) < most


def test_fp16_differs_by_its_rounding(toy: Toy) -> None:
    assert 1e-4 < _error(toy, to_half(toy.graph, islands_of(toy.graph))) < 2e-2


def test_bf16_has_its_types(toy: Toy) -> None:
    editor = Editor(to_half(toy.graph, islands_of(toy.graph), "bf16"))
    kernels = {editor.tensors[n.input[1]].data_type for n in editor.graph.node if n.op_type == "Conv"}
    assert kernels == {TensorProto.BFLOAT16}


def test_places_and_the_image_stay_fp32(toy: Toy) -> None:
    """Islands cover sigmoids and logarithms of boxes and the image preparation, but no features."""
    editor = Editor(toy.graph)
    kinds = {node.name: node.op_type for node in editor.graph.node}
    assert {"Sigmoid", "Log"} <= {kinds[name] for name in coordinates(editor)}
    assert {"Sub", "Div"} <= {kinds[name] for name in pixels(editor)}
    assert not {"Conv", "LayerNormalization"} & {kinds[name] for name in coordinates(editor) | pixels(editor)}
    half, coarse = (
        _error(toy, to_half(toy.graph, islands_of(toy.graph) - fewer))
        for fewer in (set(), coordinates(editor) | pixels(editor))
    )
    assert half < 0.8 * coarse


def test_bf16_keeps_the_decoders_small_nodes_in_fp32(toy: Toy) -> None:
    """Each of them rounds to 8 bits otherwise, and together they cause most of the error."""
    editor = Editor(toy.probe)
    kept = sensitive(editor)
    backbone = editor.makers_of("backbone")
    assert kept
    assert not kept & backbone
    fine, coarse = (
        _error(toy, emulated(toy.probe, islands_of(toy.probe, half)), ["boxes"]) for half in ("bf16", "fp16")
    )
    assert fine < 0.5 * coarse


@pytest.mark.parametrize("core", ["portable", "tensorrt"])
def test_all_that_makes_an_index_stays_fp32(toy: Toy, core: Fp32Name) -> None:
    """No value is 16 bits between the projection's product and the index or the weights of the gathered cells."""
    network = with_core(toy.model, CORES[core])
    graph = shipped(probe_to_onnx(ExportGraph(network, toy.size)))
    editor = Editor(to_half(graph, islands_of(graph)))
    gathers = [
        node for node in editor.graph.node if node.op_type == "Gather" and node.input[1] in editor.producers
    ]
    assert len(gathers) == toy.config.model.encoder_layers + toy.config.model.decoder_layers
    for gather in gathers:
        mixing = editor.sole_consumer(gather.output[0])
        assert mixing is not None
        assert mixing.op_type == ("MatMul" if core == "portable" else "Mul")
        (weights,) = set(mixing.input) - {gather.output[0]}
        exact = editor.producers[weights]
        while exact.op_type != "Cast":  # to the 16 bits of the product with the cells
            exact = editor.producers[exact.input[0]]
        makers = set[str]()
        for value in (gather.input[1], exact.input[0]):
            makers |= editor.makers_of(value, lambda node: node.op_type not in ("MatMul", "Gemm"))
        nodes = [node for node in editor.graph.node if node.name in makers]
        assert {"Floor", "Softmax", "Where"} <= {node.op_type for node in nodes}
        casts = [node.input[0] for node in nodes if _casts_to(node, TensorProto.FLOAT)]
        assert casts
        assert {editor.producers[name].op_type for name in casts} <= {"MatMul", "Gemm"}


@pytest.mark.parametrize("half", ["fp16", "bf16"])
def test_emulation_rounds_where_the_type_does(toy: Toy, half: Half) -> None:
    """The casts of one graph correspond to the pairs of casts of the other."""
    islands = islands_of(toy.graph)
    typed, rounded = Editor(to_half(toy.graph, islands, half)), Editor(emulated(toy.graph, islands, half))
    kind = TensorProto.FLOAT16 if half == "fp16" else TensorProto.BFLOAT16
    into_half = {node.input[0] for node in typed.graph.node if _casts_to(node, kind)}
    assert into_half, "islands are read outside"
    pairs = {node.input[0].removesuffix("_exact") for node in rounded.graph.node if _casts_to(node, kind)}
    original = Editor(toy.graph)
    outside = {
        name
        for node in original.graph.node
        if node.name not in islands
        for name in node.output
        if name and original.is_float(name)
    }
    assert pairs == outside | into_half


def _casts_to(node: onnx.NodeProto, kind: int) -> bool:
    return node.op_type == "Cast" and any(a.name == "to" and a.i == kind for a in node.attribute)


def test_linear_blocks_stay_fp32(bottlenecks: bytes) -> None:
    """Values with means far from zero stay fp32, up to the convolution that reads the last of them."""
    editor = Editor(bottlenecks)
    blocks = linear_blocks(editor)
    kinds = [node.op_type for node in editor.graph.node if node.name not in blocks]
    assert kinds == ["GlobalAveragePool"]
    image = np.random.default_rng(0).integers(0, 256, (1, 16, 24, 3), dtype=np.uint8)
    exact, with_blocks, without = (
        run_session(open_session(graph), ["pixel"], image)["pixel"]
        for graph in (bottlenecks, emulated(bottlenecks, blocks, "fp16"), emulated(bottlenecks, (), "fp16"))
    )
    size = np.linalg.norm(exact)
    assert np.linalg.norm(without - exact) > 0.02 * size
    assert np.linalg.norm(with_blocks - exact) < 1e-3 * size
