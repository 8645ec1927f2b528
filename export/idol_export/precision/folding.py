"""Constant factors and summands behind a convolution become part of its weights, as graphs of fewer bits need them."""

import numpy as np
import onnx
from numpy.typing import NDArray

from idol_export.precision.editor import Editor

__all__ = ["fold_norms", "folded"]


def folded(graph: bytes) -> bytes:
    """A graph with its norms folded."""
    editor = Editor(graph)
    fold_norms(editor)
    return editor.to_bytes()


def fold_norms(editor: Editor) -> None:
    """Folds `Conv`, `Mul`, `Add` by constants of one value per channel into one `Conv` with a bias."""
    for conv in [node for node in editor.graph.node if node.op_type == "Conv"]:
        while (found := _by_channel(editor, conv)) is not None:
            node, values = found
            weight, bias = _parameters(editor, conv)
            if node.op_type == "Mul":
                weight, bias = weight * values[:, None, None, None], bias * values
            else:
                bias = bias + values
            del conv.input[1:]
            conv.input.extend(
                [
                    editor.add_constant(f"{node.output[0]}_weight", weight),
                    editor.add_constant(f"{node.output[0]}_bias", bias),
                ]
            )
            conv.output[0] = node.output[0]
            editor.remove([node])


def _by_channel(editor: Editor, conv: onnx.NodeProto) -> tuple[onnx.NodeProto, NDArray[np.float32]] | None:
    """The only reader of a convolution, if it multiplies or adds a constant per channel."""
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
