"""Folding of constant factors and summands into the preceding convolution, before precision is reduced."""

import numpy as np
import onnx
from numpy.typing import NDArray

from idol_export.precision.editor import Editor

__all__ = ["folded"]


def folded(graph: bytes) -> bytes:
    """Return the graph with each `Conv`, `Mul`, `Add` of constants per channel folded into one `Conv` with a bias."""
    editor = Editor(graph)
    for conv in [node for node in editor.graph.node if node.op_type == "Conv"]:
        while (norm := _channel_norm(editor, conv)) is not None:
            node, values = norm
            weight, bias = _parameters(editor, conv)
            if node.op_type == "Mul":
                weight, bias = weight * values[:, None, None, None], bias * values
            else:
                bias = bias + values
            name = node.output[0]
            del conv.input[1:]
            conv.input.append(editor.add_constant(f"{name}_weight", weight))
            conv.input.append(editor.add_constant(f"{name}_bias", bias))
            conv.output[0] = name
            editor.remove([node])
    return editor.to_bytes()


def _channel_norm(editor: Editor, conv: onnx.NodeProto) -> tuple[onnx.NodeProto, NDArray[np.float32]] | None:
    """Return the only reader of a convolution and its constant [C], if it multiplies or adds one per channel."""
    node = editor.sole_consumer(conv.output[0])
    if node is None or node.op_type not in ("Mul", "Add"):
        return None
    other = next((name for name in node.input if name != conv.output[0]), "")
    values = editor.constant(other)
    channels = editor.tensors[conv.input[1]].dims[0]
    if values is None or values.shape[-3:] != (channels, 1, 1) or values.size != channels:
        return None
    return node, values.astype(np.float32).reshape(-1)


def _parameters(editor: Editor, conv: onnx.NodeProto) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    weight = editor.constant(conv.input[1])
    assert weight is not None
    bias = editor.constant(conv.input[2]) if len(conv.input) > 2 else None
    if bias is None:
        bias = np.zeros(weight.shape[0], np.float32)
    return weight.astype(np.float32), bias.astype(np.float32)
