"""A graph that computes in 16 bits, but for islands of fp32: precision lives in the graph, as typed builders want.

Every float value has one type. Nodes outside the islands read and make values of 16 bits; casts stand where islands
begin and end.
"""

from collections.abc import Collection
from typing import Literal

import ml_dtypes
import numpy as np
import onnx

from idol_export.editing import Editor
from idol_export.node_groups import linear_values

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

    What each spares a trained network of error is in benchmarks/precision_islands.py; only linear blocks, which are a
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
    """Names of the nodes that make points and boxes: one of 2 or 4 numbers for each query, or each of its levels.

    A point in fp16 is off by up to an eighth of a pixel, and what is sampled there by more than all rounding before.
    """
    boxes = editor.shape("boxes")
    assert boxes is not None
    found = set()
    for node in editor.graph.node:
        shapes = [editor.shape(name) or () for name in node.output if editor.is_float(name)]
        if any(boxes[1] in shape[:2] and shape[-1] in _COORDINATES for shape in shapes):
            found.add(node.name)
    return found


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
                node.input[index] = _constant(editor, name, wanted)
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
    """The graph in fp32, rounded where `to_half` would: constants, and what each node outside the islands makes.

    For processors that cannot compute in these 16 bits; sums inside of a node are fp32, as on those that can.
    """
    editor = Editor(graph)
    constants: dict[str, str] = {}
    for node in list(editor.graph.node):
        if node.name in islands:
            continue
        for index, name in enumerate(node.input):
            if name in editor.tensors and editor.is_float(name):
                if name not in constants:
                    constants[name] = _rounded_constant(editor, name, half)
                node.input[index] = constants[name]
        for index, name in enumerate(node.output):
            if name and editor.is_float(name):
                exact, rounded = f"{name}_exact", f"{name}_rounded"
                node.output[index] = exact
                editor.add_node("Cast", [exact], [rounded], to=_TYPES[half])
                editor.add_node("Cast", [rounded], [name], to=_FLOAT)
    return editor.to_bytes()


def _rounded_constant(editor: Editor, name: str, half: Half) -> str:
    values = editor.constant(name)
    assert values is not None
    kind = np.float16 if half == "fp16" else ml_dtypes.bfloat16
    with np.errstate(over="ignore"):
        return editor.add_constant(f"{name}_rounded_once", values.astype(kind).astype(np.float32))


def _constant(editor: Editor, name: str, wanted: int) -> str:
    """The constant in the type that is wanted."""
    if wanted == _FLOAT:
        return name
    values = editor.constant(name)
    assert values is not None
    with np.errstate(over="ignore"):
        half = values.astype(np.float16 if wanted == onnx.TensorProto.FLOAT16 else ml_dtypes.bfloat16)
    return editor.add_constant(f"{name}_half", half)


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
