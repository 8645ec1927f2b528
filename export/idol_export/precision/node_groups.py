"""Groups of nodes that switch to a reduced precision together."""

import math
from collections.abc import Collection

import onnx

from idol_export.graph.adapter import STAGES
from idol_export.precision.editor import Editor

__all__ = ["GROUPS", "KEPT", "PARTS", "groups_of", "is_kept", "linear_values", "parts_of"]

PARTS = (*STAGES[1:], "heads")
# first: reads the image, whose 256 levels differ from the integer levels.
# depthwise: sums too few products to average their rounding errors.
# normalised: precedes a normalisation, and a few channels have far larger values than the rest.
# bottleneck: reads or writes narrow values without an activation, and later layers amplify its rounding error.
# sampled: reads the values that attention sampled, and a few cells have far larger values than the rest.
_FRAGILE = ("first", "depthwise", "normalised", "bottleneck", "sampled")
# locations: computes where attention samples, and with which weights.
# values: computes the values that attention samples.
_KINDS = (*_FRAGILE, "locations", "values")
_STRIDES = tuple(f"backbone/{2**power}" for power in range(1, 7))
GROUPS = (*_KINDS, *_STRIDES, *PARTS[1:])
# Groups with the largest loss per multiplication (benchmarks/README.md).
KEPT = (*_FRAGILE, "decoder")
_MOVES = ("Reshape", "Transpose", "Flatten", "Unsqueeze")


def parts_of(editor: Editor) -> dict[str, str]:
    """Return the part of each node of a probe: the first of `PARTS` whose last value depends on the node."""
    parts: dict[str, str] = {}
    for part in PARTS[:-1]:
        for node in editor.makers_of(part):
            parts.setdefault(node, part)
    return {node.name: parts.get(node.name, PARTS[-1]) for node in editor.graph.node}


def groups_of(editor: Editor) -> dict[str, str]:
    """Return the group of each node of a probe: a fragile kind, a stride of the backbone, or another part."""
    parts = parts_of(editor)
    image = editor.shape(editor.graph.input[0].name)
    assert image is not None
    preparation = editor.makers_of(STAGES[0])
    linear, locating = linear_values(editor), _locating(editor)
    groups = {}
    for node in editor.graph.node:
        group = parts[node.name]
        if node.op_type == "Conv":
            group = _fragile(editor, node, preparation, linear) or group
        elif node.op_type == "MatMul" and _reads_sampled(editor, node):
            group = "sampled"
        elif node.op_type == "MatMul" and _is_sampled(editor, node):
            group = "values"
        elif node.name in locating:
            group = "locations"
        if group == PARTS[0]:
            group = _STRIDES[_power(editor, node, image[1] * image[2]) - 1]
        groups[node.name] = group
    return groups


def is_kept(group: str, part: str, keep: Collection[str]) -> bool:
    """Return whether a node of this group and part stays fp32."""
    return group in keep or part in keep


def linear_values(editor: Editor) -> set[str]:
    """Return the outputs of convolutions, and sums of them, that 1x1 convolutions read without an activation between.

    Blocks of MobileNetV2 end in such values. The means of their channels may be fifty times their spread, and the next
    convolution subtracts the means again, so that mostly the rounding error of a rounded value remains.
    """
    values: dict[str, None] = {}
    for node in editor.graph.node:  # in the order of computation
        name = node.output[0]
        summed = node.op_type == "Add" and any(part in values for part in node.input)
        if summed or _is_fixed(editor, node):
            values[name] = None
    for name in reversed(list(values)):
        readers = editor.consumers[name]
        sums = [node for node in readers if node.op_type == "Add" and node.output[0] in values]
        if not sums and not any(_is_pointwise(editor, node, name) for node in readers):
            del values[name]
    return set(values)


def _is_fixed(editor: Editor, node: onnx.NodeProto) -> bool:
    """Return whether a node is a 2-D convolution with constant weights."""
    weights = list(node.input[1:])
    return (
        node.op_type == "Conv"
        and all(name in editor.tensors for name in weights)
        and len(editor.tensors[weights[0]].dims) == 4
    )


def _is_pointwise(editor: Editor, node: onnx.NodeProto, name: str) -> bool:
    """Return whether a node is a 1x1 convolution of this value without channel groups."""
    if node.input[0] != name or not _is_fixed(editor, node):
        return False
    shape = editor.tensors[node.input[1]].dims
    groups = {a.name: a.i for a in node.attribute}.get("group", 1)
    return tuple(shape[2:]) == (1, 1) and groups == 1


def _power(editor: Editor, node: onnx.NodeProto, pixels: int) -> int:
    """Return how often the image was halved, rounded, because windows and padding add a few cells."""
    shape = editor.shape(node.output[0]) or ()
    if len(shape) < 3:
        return 1  # no feature map
    cells = math.prod(shape) / shape[1 if node.op_type == "Conv" else -1]
    return min(max(round(math.log2(pixels / cells) / 2), 1), len(_STRIDES))


def _fragile(
    editor: Editor, node: onnx.NodeProto, preparation: Collection[str], linear: Collection[str]
) -> str | None:
    source = editor.producers.get(node.input[0])
    if source is None or source.name in preparation:
        return "first"
    weight = editor.shape(node.input[1])
    if weight is not None and weight[1] == 1 < weight[0]:
        return "depthwise"
    reader = _sole_reader(editor, node.output[0])
    while reader is not None and reader.op_type in _MOVES:
        reader = _sole_reader(editor, reader.output[0])
    if reader is not None and reader.op_type == "InstanceNormalization":
        return "normalised"
    return "bottleneck" if node.input[0] in linear or node.output[0] in linear else None


def _sole_reader(editor: Editor, name: str) -> onnx.NodeProto | None:
    """Return the only reader of a value, without the `Shape` nodes of graphs with a free batch dimension."""
    readers = [node for node in editor.consumers.get(name, []) if node.op_type != "Shape"]
    return readers[0] if len(readers) == 1 else None


def _locating(editor: Editor) -> set[str]:
    """Return the products that the sampling positions of deformable attention depend on without another between."""
    found = set()
    for node in editor.graph.node:
        if node.op_type in ("DeformAttn", "Gather"):
            makers = editor.makers_of(node.input[1], lambda maker: maker.op_type != "MatMul")
            read = [node.input[1], *(name for n in editor.graph.node if n.name in makers for name in n.input)]
            products = [editor.producers[name] for name in read if name in editor.producers]
            found |= {product.name for product in products if product.op_type == "MatMul"}
    return found


def _reads_sampled(editor: Editor, node: onnx.NodeProto) -> bool:
    """Return whether a product reads the output of deformable attention, our operator or the mixing of its cells."""
    maker = editor.producers.get(node.input[0])
    while maker is not None and maker.op_type in _MOVES:
        maker = editor.producers.get(maker.input[0])
    if maker is None or maker.op_type in ("DeformAttn", "ReduceSum"):
        return maker is not None
    return any(editor.producers[name].op_type == "Gather" for name in maker.input if name in editor.producers)


def _is_sampled(editor: Editor, node: onnx.NodeProto) -> bool:
    """Return whether deformable attention samples the output of a product, after a bias and a padding mask."""
    name, passed = node.output[0], (*_MOVES, "Add", "Mul", "Where")
    while (reader := _sole_reader(editor, name)) is not None and reader.op_type in passed:
        name = reader.output[0]
    return reader is not None and reader.op_type in ("DeformAttn", "Gather") and reader.input[0] == name
