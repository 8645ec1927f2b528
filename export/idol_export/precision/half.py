"""A graph that computes in 16 bits, but for islands of fp32: precision lives in the graph, as typed builders want.

Every float value has one type. Nodes outside the islands read and make values of 16 bits; casts stand where islands
begin and end.
"""

from collections.abc import Collection
from typing import Literal

import ml_dtypes
import numpy as np
import onnx
from numpy.typing import NDArray

from idol_export.precision.editor import Editor
from idol_export.precision.node_groups import linear_values

__all__ = ["ISLANDS", "Half", "coordinates", "emulated", "islands_of", "linear_blocks", "pixels", "to_half"]

Half = Literal["fp16", "bf16"]

# Kinds of nodes that stay fp32: those whose sums leave fp16's range where a runtime does not sum in fp32 inside of
# them, and sampling, whose coordinates are fp32 in any case.
ISLANDS: Collection[str] = (
    "DeformAttn",
    "GridSample",
    "InstanceNormalization",
    "LayerNormalization",
    "Softmax",
)
_COORDINATES = (2, 4)  # of a point, of a box
_WEIGHTED = ("Conv", "Gemm", "MatMul")

_TYPES = {"fp16": onnx.TensorProto.FLOAT16, "bf16": onnx.TensorProto.BFLOAT16}
_FLOAT = onnx.TensorProto.FLOAT


def islands_of(graph: bytes) -> set[str]:
    """Names of the nodes that stay fp32: of `ISLANDS`, of coordinates, of the image, and of linear blocks.

    What each spares a trained network of error is in benchmarks/README.md (fp16); only linear blocks, which are a
    MobileNet's, cost time worth naming.
    """
    editor = Editor(graph)
    return (
        {node.name for node in editor.graph.node if node.op_type in ISLANDS}
        | coordinates(editor)
        | pixels(editor)
        | linear_blocks(editor)
    )


def coordinates(editor: Editor) -> set[str]:
    """Names of the nodes that make points and boxes: one of 2 or 4 numbers for each query, or what is sampled at.

    A point in fp16 is off by up to an eighth of a pixel, and what is sampled there by more than all rounding before.
    """
    boxes = editor.shape("boxes")
    assert boxes is not None
    found = set()
    for node in editor.graph.node:
        if any(boxes[1] in shape[:2] for shape in _point_shapes(editor, node)):
            found.add(node.name)
        if node.op_type == "GridSample":
            # Points of other points, and these of what is none yet.
            found |= editor.makers_of(node.input[1], lambda maker: bool(_point_shapes(editor, maker)))
    return found


def _point_shapes(editor: Editor, node: onnx.NodeProto) -> list[tuple[int, ...]]:
    """Of what a node makes, shapes that end in points or boxes."""
    shapes = [editor.shape(name) for name in node.output if editor.is_float(name)]
    return [shape for shape in shapes if shape and shape[-1] in _COORDINATES]


def pixels(editor: Editor) -> set[str]:
    """Names of the nodes that prepare the image for the first that multiplies it by weights."""
    made = {value.name for value in editor.graph.input}
    found = set()
    for node in editor.graph.node:  # in the order of computation
        computed = [name for name in node.input if name and name not in editor.tensors]
        if computed and made.issuperset(computed) and node.op_type not in _WEIGHTED:
            made.update(node.output)
            found.add(node.name)
    return found


def linear_blocks(editor: Editor) -> set[str]:
    """Names of the nodes that make `linear_values`, or what these are made of, and of those that convolve them."""
    found = set()
    for value in linear_values(editor):
        found |= editor.makers_of(value)
        found |= {node.name for node in editor.consumers[value] if node.op_type == "Conv"}
    return found


def to_half(graph: bytes, islands: Collection[str], half: Half = "fp16") -> bytes:
    """The graph with every float value in 16 bits, but for what the nodes of the islands read and make.

    Args:
        graph: of fp32; inputs and outputs stay as they are.
        islands: names of nodes.
        half: which 16 bits.
    """
    editor = Editor(graph)
    kind = _TYPES[half]
    made: dict[str, int] = {}  # type of every float value that a node makes
    for node in editor.graph.node:
        for name in node.output:
            if name and editor.is_float(name):
                made[name] = _FLOAT if node.name in islands else kind
    outputs = {value.name for value in editor.graph.output}
    casts: dict[tuple[str, int], str] = {}
    for node in list(editor.graph.node):
        wanted = _FLOAT if node.name in islands else kind
        for index, name in enumerate(node.input):
            if name in editor.tensors and editor.is_float(name):
                if wanted == kind:
                    node.input[index] = editor.add_constant(f"{name}_half", _halved(editor, name, kind))
            elif made.get(name, wanted) != wanted:
                node.input[index] = _cast(editor, casts, name, wanted)
        if node.op_type == "Cast" and wanted == kind:
            for attribute in node.attribute:
                if attribute.name == "to" and attribute.i == _FLOAT:
                    attribute.i = kind
    for name in outputs:
        if made.get(name) == kind:
            _rename(editor, name, f"{name}_half")
            editor.add_node("Cast", [f"{name}_half"], [name], to=_FLOAT)
    for value in editor.graph.value_info:
        if made.get(value.name) == kind and value.name not in outputs:
            value.type.tensor_type.elem_type = kind
    return editor.to_bytes()


def emulated(graph: bytes, islands: Collection[str], half: Half = "bf16") -> bytes:
    """The graph in fp32, rounded where `to_half` would: what each node outside the islands reads and makes.

    For processors that cannot compute in these 16 bits; sums inside of a node are fp32, as on those that can.
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
    """A constant in 16 bits."""
    values = editor.constant(name)
    assert values is not None
    with np.errstate(over="ignore"):
        return values.astype(np.float16 if kind == onnx.TensorProto.FLOAT16 else ml_dtypes.bfloat16)


def _cast(editor: Editor, casts: dict[tuple[str, int], str], name: str, wanted: int) -> str:
    if (name, wanted) not in casts:
        casts[name, wanted] = f"{name}_as_{'fp32' if wanted == _FLOAT else 'half'}"
        editor.add_node("Cast", [name], [casts[name, wanted]], to=wanted)
    return casts[name, wanted]


def _rename(editor: Editor, old: str, new: str) -> None:
    """Of a value, where it is made and wherever it is read."""
    for node in editor.graph.node:
        for names in (node.input, node.output):
            for index, name in enumerate(names):
                if name == old:
                    names[index] = new
