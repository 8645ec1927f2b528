"""Values around zero: means that rounding would be lost in move from what makes a value to what reads it.

Blocks of MobileNetV2 end in a convolution without an activation. The means of its channels may be fifty times their
spread, and the convolution behind it takes them away again: what is left of a rounded value is its rounding. Where the
readers are convolutions of one pixel, a mean can be taken off one bias and given to the others, and nothing changes
but the rounding (Nagel et al. 2019, section 4.1.3, of what rectifiers cut off; of linear blocks all can move).
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

from idol_export.calibration import open_values
from idol_export.editing import Editor
from idol_export.folding import fold_norms
from idol_runtime.backends.onnxruntime import run_session

__all__ = ["centred", "linear_values"]

Floats = NDArray[np.float32]


def centred(
    graph: bytes,
    image: NDArray[np.uint8],  # [h, w, 3], resized
    libraries: Sequence[Path] = (),
) -> bytes:
    """The graph with its norms folded, and values around zero where they can be.

    Args:
        graph: an ONNX file of fp32.
        image: whose means they are; another's differ by little beside what is gained.
        libraries: of operators that are not ONNX Runtime's own.

    Raises:
        BackendError: ONNX Runtime refuses the graph.
    """
    editor = Editor(graph)
    fold_norms(editor)
    values = linear_values(editor)
    made = [name for name, node in values.items() if node.op_type == "Conv"]
    if made:
        _move(editor, values, _means(editor, made, image, libraries))
    return editor.to_bytes()


def linear_values(editor: Editor) -> dict[str, onnx.NodeProto]:
    """Values that are convolved or sums of such, as they are, that convolutions of one pixel read; and their makers."""
    found: dict[str, onnx.NodeProto] = {}
    for node in editor.graph.node:  # in the order of computation
        name = node.output[0]
        summed = node.op_type == "Add" and any(part in found for part in node.input)
        if (summed or _is_fixed(editor, node)) and name not in editor.outputs:
            found[name] = node
    for name in reversed(list(found)):
        readers = editor.consumers[name]
        if not any(_is_pointwise(editor, node, name) or _is_sum(node, found) for node in readers):
            del found[name]
    return found


def _is_fixed(editor: Editor, node: onnx.NodeProto) -> bool:
    """Whether a node convolves images with constants."""
    weights = list(node.input[1:])
    return (
        node.op_type == "Conv"
        and all(name in editor.tensors for name in weights)
        and len(editor.tensors[weights[0]].dims) == 4
    )


def _is_sum(node: onnx.NodeProto, values: Mapping[str, onnx.NodeProto]) -> bool:
    return node.op_type == "Add" and node.output[0] in values


def _is_pointwise(editor: Editor, node: onnx.NodeProto, name: str) -> bool:
    """Whether a node convolves each pixel of this value alone, over all its channels."""
    if node.input[0] != name or not _is_fixed(editor, node):
        return False
    attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    shape = editor.tensors[node.input[1]].dims
    return (
        tuple(shape[2:]) == (1, 1)
        and not any(attributes.get("pads", ()))
        and attributes.get("group", 1) == 1
        and attributes.get("auto_pad", b"NOTSET") in (b"NOTSET", b"VALID")
    )


def _means(
    editor: Editor, names: Sequence[str], image: NDArray[np.uint8], libraries: Sequence[Path]
) -> dict[str, Floats]:
    """[C] of each value [1, C, h, w]."""
    session = open_values(editor.to_bytes(), names, libraries)
    answers = run_session(session, names, image[None])
    return {name: answer.mean((0, 2, 3)) for name, answer in answers.items()}


def _move(editor: Editor, values: Mapping[str, onnx.NodeProto], means: Mapping[str, Floats]) -> None:
    """Has each value be less by a constant per channel, and whatever reads it make up for that."""
    less: dict[str, Floats] = {}
    for name, node in values.items():
        if node.op_type == "Conv":
            less[name] = means[name]
            _add_to_bias(editor, node, -means[name])
        else:
            less[name] = np.sum([less[part] for part in node.input if part in less], axis=0)
    for name, missing in less.items():
        others = []
        for reader in editor.consumers[name]:
            if _is_pointwise(editor, reader, name):
                weight = editor.constant(reader.input[1])
                assert weight is not None
                _add_to_bias(editor, reader, weight[:, :, 0, 0].astype(np.float64) @ missing)
            elif reader.output[0] not in less:
                others.append(reader)
        if others:
            whole = f"{name}_whole"
            constant = editor.add_constant(f"{name}_mean", missing[:, None, None].astype(np.float32))
            editor.add_node("Add", [name, constant], [whole])
            editor.redirect(name, whole, others)
            editor.graph.value_info.append(
                onnx.helper.make_tensor_value_info(whole, onnx.TensorProto.FLOAT, None)
            )
    editor.refresh()


def _add_to_bias(editor: Editor, conv: onnx.NodeProto, summand: NDArray[np.floating]) -> None:
    bias = editor.constant(conv.input[2]) if len(conv.input) > 2 else np.float32(0)
    assert bias is not None
    name = f"{conv.input[1]}_{conv.output[0]}_bias{len(editor.tensors)}"
    del conv.input[2:]
    conv.input.append(editor.add_constant(name, (bias + summand.astype(np.float64)).astype(np.float32)))
