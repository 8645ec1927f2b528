"""The 16-bit precisions fp16 and bf16: typed graphs in 16 bits with islands of fp32.

Every float value has one type. Nodes outside the islands read and write 16-bit values, and casts are inserted at the
borders of the islands. The types are part of the graph, as builders of strongly typed engines require.
"""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

import ml_dtypes
import numpy as np
import onnx
from numpy.typing import NDArray

from idol_export.graph.tracing import shipped
from idol_export.precision.base import Precision, ReduceOptions, RewrittenGraph
from idol_export.precision.editor import Editor
from idol_export.precision.folding import folded
from idol_export.precision.node_groups import linear_values, parts_of
from idol_export.precision.quantizer import candidates
from idol_export.verify.reference_graph import ReferenceGraph

__all__ = [
    "BF16",
    "FP16",
    "ISLANDS",
    "Half",
    "HalfPrecision",
    "coordinates",
    "emulated",
    "islands_of",
    "linear_blocks",
    "pixels",
    "sensitive",
    "to_half",
]

Half = Literal["fp16", "bf16"]

# Operators that stay fp32: those whose sums exceed fp16's range unless a runtime sums in fp32 inside the operator, and
# sampling, whose coordinates are fp32 in any case.
ISLANDS: Collection[str] = ("DeformAttn", "InstanceNormalization", "LayerNormalization", "Softmax")
_COORDINATES = (2, 4)  # size of a point, size of a box
_WEIGHTED = ("Conv", "Gemm", "MatMul")

_TYPES = {"fp16": onnx.TensorProto.FLOAT16, "bf16": onnx.TensorProto.BFLOAT16}
_FLOAT = onnx.TensorProto.FLOAT


@dataclass(frozen=True)
class HalfPrecision(Precision):
    """16-bit floats for all nodes outside the fp32 islands."""

    name: Half

    def rewrite(self, reference: ReferenceGraph, options: ReduceOptions) -> RewrittenGraph:
        """Convert the fp32 graph to 16 bits, and to fp32 with 16-bit rounding if the precision is emulated."""
        probe = folded(reference.candidate.probe)
        islands = islands_of(probe, self.name)
        rewrite = emulated if self.emulated else to_half
        candidate = self.candidate(reference.candidate, rewrite(probe, islands, self.name))
        graph = to_half(shipped(probe), islands, self.name) if self.emulated else candidate.graph
        return RewrittenGraph(candidate, graph)


FP16 = HalfPrecision("fp16", "fp16", ("onnxruntime", "openvino", "tensorrt"))
BF16 = HalfPrecision("bf16", "bf16", ("openvino", "tensorrt"), emulated=True)


def islands_of(graph: bytes, half: Half = "fp16") -> set[str]:
    """Return the names of the nodes that stay fp32.

    These are `ISLANDS`, coordinates, image preparation and linear blocks; for bf16, with its 8 bits of precision, also
    `sensitive`. benchmarks/README.md lists the error that each kind avoids. Only linear blocks, which MobileNetV2 has,
    cost noticeable time.
    """
    editor = Editor(graph)
    return (
        {node.name for node in editor.graph.node if node.op_type in ISLANDS}
        | coordinates(editor)
        | pixels(editor)
        | linear_blocks(editor)
        | (sensitive(editor) if half == "bf16" else set())
    )


def sensitive(editor: Editor) -> set[str]:
    """Return the names of the nodes of decoder and heads, except large products, and of the encoder's residual sums."""
    parts, large = parts_of(editor), candidates(editor)
    sums = {
        node.name
        for node in editor.graph.node
        if node.op_type == "Add" and not any(name in editor.tensors for name in node.input)
    }
    return {
        name
        for name, part in parts.items()
        if (part in ("decoder", "heads") and name not in large) or (part == "encoder" and name in sums)
    }


def coordinates(editor: Editor) -> set[str]:
    """Return the names of the nodes that compute points or boxes per query, or where and how the attention samples.

    A point in fp16 is off by up to an eighth of a pixel, which changes the sampled values more than all earlier
    rounding. Indices and weights of gathered cells are computed from the projections' products in fp32.
    """
    boxes = editor.shape("boxes")
    assert boxes is not None
    names = set()
    for node in editor.graph.node:
        if any(boxes[1] in shape[:2] for shape in _point_shapes(editor, node)):
            names.add(node.name)
        if node.op_type == "Gather" and node.input[1] in editor.producers:
            mixing = editor.sole_consumer(node.output[0])
            assert mixing is not None
            for value in {node.input[1], *mixing.input} - {node.output[0]}:
                names |= editor.makers_of(value, lambda maker: maker.op_type not in _WEIGHTED)
    return names


def _point_shapes(editor: Editor, node: onnx.NodeProto) -> list[tuple[int, ...]]:
    """Return the shapes of a node's outputs that end in points or boxes."""
    shapes = [editor.shape(name) for name in node.output if editor.is_float(name)]
    return [shape for shape in shapes if shape and shape[-1] in _COORDINATES]


def pixels(editor: Editor) -> set[str]:
    """Return the names of the nodes that prepare the image, up to the first node with weights."""
    made = {value.name for value in editor.graph.input}
    names = set()
    for node in editor.graph.node:  # in the order of computation
        computed = [name for name in node.input if name and name not in editor.tensors]
        if computed and made.issuperset(computed) and node.op_type not in _WEIGHTED:
            made.update(node.output)
            names.add(node.name)
    return names


def linear_blocks(editor: Editor) -> set[str]:
    """Return the names of the nodes that compute `linear_values`, directly or indirectly, or convolve them."""
    names = set()
    for value in linear_values(editor):
        names |= editor.makers_of(value)
        names |= {node.name for node in editor.consumers[value] if node.op_type == "Conv"}
    return names


def to_half(graph: bytes, islands: Collection[str], half: Half = "fp16") -> bytes:
    """Return the graph with every float value in 16 bits, except the inputs and outputs of the islands' nodes.

    Args:
        graph: ONNX file in fp32; its inputs and outputs keep their types.
        islands: names of the nodes that stay fp32.
        half: 16-bit type (default: fp16).
    """
    editor = Editor(graph)
    kind = _TYPES[half]
    made: dict[str, int] = {}  # type of every computed float value
    for node in editor.graph.node:
        for name in node.output:
            if name and editor.is_float(name):
                made[name] = _FLOAT if node.name in islands else kind
    casts: dict[tuple[str, int], str] = {}
    for node in list(editor.graph.node):
        target_type = _FLOAT if node.name in islands else kind
        for index, name in enumerate(node.input):
            if name in editor.tensors and editor.is_float(name):
                if target_type == kind:
                    node.input[index] = editor.add_constant(f"{name}_half", _halved(editor, name, kind))
            elif made.get(name, target_type) != target_type:
                node.input[index] = _cast(editor, casts, name, target_type)
        if node.op_type == "Cast" and target_type == kind:
            for attribute in node.attribute:
                if attribute.name == "to" and attribute.i == _FLOAT:
                    attribute.i = kind
    for name in editor.outputs:
        if made.get(name) == kind:
            maker = editor.producers[name]
            maker.output[list(maker.output).index(name)] = f"{name}_half"
            editor.redirect(name, f"{name}_half", editor.graph.node)
            editor.add_node("Cast", [f"{name}_half"], [name], to=_FLOAT)
    for value in editor.graph.value_info:
        if made.get(value.name) == kind and value.name not in editor.outputs:
            value.type.tensor_type.elem_type = kind
    return editor.to_bytes()


def emulated(graph: bytes, islands: Collection[str], half: Half = "bf16") -> bytes:
    """Return the graph in fp32 with 16-bit rounding of all inputs and outputs of the nodes outside the islands.

    It emulates `to_half` on processors without this 16-bit type. Sums inside a node are fp32 on both.
    """
    editor = Editor(graph)
    kind = _TYPES[half]
    made = (name for node in editor.graph.node if node.name in islands for name in node.output)
    exact = {name for name in made if name and editor.is_float(name)}
    rounded: set[str] = set()
    for node in list(editor.graph.node):
        if node.name in islands:
            continue
        for index, name in enumerate(node.input):
            if name in editor.tensors and editor.is_float(name):
                values = _halved(editor, name, kind).astype(np.float32)
                node.input[index] = editor.add_constant(f"{name}_rounded_once", values)
            elif name in exact:
                node.input[index] = f"{name}_read_rounded"
                if name not in rounded:
                    rounded.add(name)
                    _add_rounding(editor, name, node.input[index], kind)
        for index, name in enumerate(node.output):
            if name and editor.is_float(name):
                node.output[index] = f"{name}_exact"
                _add_rounding(editor, node.output[index], name, kind)
    return editor.to_bytes()


def _add_rounding(editor: Editor, exact: str, rounded: str, kind: int) -> None:
    editor.add_node("Cast", [exact], [f"{rounded}_half"], to=kind)
    editor.add_node("Cast", [f"{rounded}_half"], [rounded], to=_FLOAT)


def _halved(editor: Editor, name: str, kind: int) -> NDArray[np.generic]:
    values = editor.constant(name)
    assert values is not None
    with np.errstate(over="ignore"):
        return values.astype(np.float16 if kind == onnx.TensorProto.FLOAT16 else ml_dtypes.bfloat16)


def _cast(editor: Editor, casts: dict[tuple[str, int], str], name: str, target_type: int) -> str:
    if (name, target_type) not in casts:
        casts[name, target_type] = f"{name}_as_{'fp32' if target_type == _FLOAT else 'half'}"
        editor.add_node("Cast", [name], [casts[name, target_type]], to=target_type)
    return casts[name, target_type]
