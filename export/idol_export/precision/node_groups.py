"""Which of the network's nodes belong together when it is decided what computes in fewer bits."""

import math
from collections.abc import Collection, Mapping

import onnx

from idol_export.graph.adapter import STAGES
from idol_export.precision.editor import Editor

__all__ = ["GROUPS", "KEPT", "PARTS", "groups_of", "is_kept", "linear_values", "parts_of"]

PARTS = (*STAGES[1:], "heads")
# `first`: reads the image, whose 256 levels do not fall on those of integers. `depthwise`: too few products to average
# their rounding. `normalised`: in front of a normalisation, a few channels have far larger values than all others.
# `bottleneck`: between narrow values without an activation, which all that follows is a small difference of. `sampled`:
# reads what attention sampled, where a few cells have far larger values than all others.
_KINDS = ("first", "depthwise", "normalised", "bottleneck", "sampled")
_STRIDES = tuple(f"backbone/{2**power}" for power in range(1, 7))
GROUPS = (*_KINDS, *_STRIDES, *PARTS[1:])
# What loses most for what it multiplies (benchmarks/README.md, int8).
KEPT = (*_KINDS, "decoder")
_MOVES = ("Reshape", "Transpose", "Flatten", "Unsqueeze")


def parts_of(editor: Editor) -> dict[str, str]:
    """Which of `PARTS` each node of a probe is in: the first whose last value it leads to."""
    found: dict[str, str] = {}
    for part in PARTS[:-1]:
        for node in editor.makers_of(part):
            found.setdefault(node, part)
    return {node.name: found.get(node.name, PARTS[-1]) for node in editor.graph.node}


def groups_of(editor: Editor) -> dict[str, str]:
    """Which of `GROUPS` each node of a probe is in: fragile, at a stride of the backbone, or in another part."""
    parts = parts_of(editor)
    image = editor.shape(editor.graph.input[0].name)
    assert image is not None
    before = editor.makers_of(STAGES[0])
    linear = linear_values(editor)
    found = {}
    for node in editor.graph.node:
        group = parts[node.name]
        if node.op_type == "Conv":
            group = _fragile(editor, node, before, linear) or group
        elif node.op_type == "MatMul" and _reads_sampled(editor, node):
            group = "sampled"
        if group == PARTS[0]:
            group = _STRIDES[_power(editor, node, image[1] * image[2]) - 1]
        found[node.name] = group
    return found


def is_kept(group: str, part: str, keep: Collection[str]) -> bool:
    """Whether a node stays fp32."""
    return group in keep or part in keep


def linear_values(editor: Editor) -> set[str]:
    """Values that are convolved or sums of such, as they are, that convolutions of one pixel read.

    Blocks of MobileNetV2 end in them. The means of their channels may be fifty times their spread, and the convolution
    behind takes the means away again: what is left of a rounded value is its rounding.
    """
    found: dict[str, None] = {}
    for node in editor.graph.node:  # in the order of computation
        name = node.output[0]
        summed = node.op_type == "Add" and any(part in found for part in node.input)
        if summed or _is_fixed(editor, node):
            found[name] = None
    for name in reversed(list(found)):
        readers = editor.consumers[name]
        if not any(_is_pointwise(editor, node, name) or _is_sum(node, found) for node in readers):
            del found[name]
    return set(found)


def _is_fixed(editor: Editor, node: onnx.NodeProto) -> bool:
    """Whether a node convolves images with constants."""
    weights = list(node.input[1:])
    return (
        node.op_type == "Conv"
        and all(name in editor.tensors for name in weights)
        and len(editor.tensors[weights[0]].dims) == 4
    )


def _is_sum(node: onnx.NodeProto, values: Mapping[str, None]) -> bool:
    return node.op_type == "Add" and node.output[0] in values


def _is_pointwise(editor: Editor, node: onnx.NodeProto, name: str) -> bool:
    """Whether a node convolves each pixel of this value alone, over all its channels."""
    if node.input[0] != name or not _is_fixed(editor, node):
        return False
    shape = editor.tensors[node.input[1]].dims
    groups = {a.name: a.i for a in node.attribute}.get("group", 1)
    return tuple(shape[2:]) == (1, 1) and groups == 1


def _power(editor: Editor, node: onnx.NodeProto, pixels: int) -> int:
    """How often the image was halved; windows and padding make places a few more."""
    made = editor.shape(node.output[0]) or ()
    if len(made) < 3:
        return 1  # nothing that multiplies an image
    places = math.prod(made) / made[1 if node.op_type == "Conv" else -1]
    return min(max(round(math.log2(pixels / places) / 2), 1), len(_STRIDES))


def _fragile(
    editor: Editor, node: onnx.NodeProto, before: Collection[str], linear: Collection[str]
) -> str | None:
    source = editor.producers.get(node.input[0])
    if source is None or source.name in before:
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
    """The one node that reads the numbers of a value; where batches are of any size, others read its shape."""
    readers = [node for node in editor.consumers.get(name, []) if node.op_type != "Shape"]
    return readers[0] if len(readers) == 1 else None


def _reads_sampled(editor: Editor, node: onnx.NodeProto) -> bool:
    """Whether a product reads what deformable attention gives, our operator or the last of the standard ones."""
    maker = editor.producers.get(node.input[0])
    while maker is not None and maker.op_type in _MOVES:
        maker = editor.producers.get(maker.input[0])
    return maker is not None and maker.op_type in ("DeformAttn", "ReduceSum")
