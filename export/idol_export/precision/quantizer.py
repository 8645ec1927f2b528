"""Quantization of a graph to int8 for ONNX Runtime or TensorRT.

- `ort`, for ONNX Runtime on CPUs: inputs and outputs of convolutions are unsigned with static ranges. Products with
  constant matrices quantize their inputs at run time.
- `qdq`, for OpenVINO and TensorRT: inputs of convolutions and products are signed and symmetric with static ranges and
  zero point 0. Outputs are floats. A residual connection reads the rounded value, so that the engine adds it inside the
  convolution and stores it once.

Weights are signed, with one scale per output channel. For `ort` they are limited so that 16-bit sums of products cannot
overflow on any processor. They are rounded such that the output error on the calibration data is smallest (GPTQ). The
mean error of a channel is subtracted from its bias.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import onnx
from numpy.typing import NDArray

from idol_export.precision.editor import Editor
from idol_export.precision.patches import Patches
from idol_export.precision.rounding import integers, shift

__all__ = ["Observed", "Target", "candidates", "observed_patches", "observed_values", "quantize"]

Target = Literal["ort", "qdq"]

_FUSED = ("Relu", "Clip")  # activations that become part of the quantization of a convolution's output
_LEAST_SHARE = 0.003  # of all multiplications
# The unit of a bias is the product of both scales; bias and sum of products together must fit 32 bits.
_BIAS_LIMIT = np.float32(2**29)


@dataclass(frozen=True)
class Observed:
    """Statistics of an activation on the calibration frames.

    Attributes:
        low: lower end of its quantization range.
        high: upper end of its quantization range.
        mean: [C] mean of each channel.
        covariances: [K, K] covariance of each kind of patches. Weights of nodes with other patches are rounded to the
            nearest integer.
    """

    low: float
    high: float
    mean: NDArray[np.float32]
    covariances: Mapping[Patches, NDArray[np.float32]] = field(default_factory=dict)


def candidates(editor: Editor) -> dict[str, float]:
    """Return the names of the nodes that can compute in int8, with their shares of all multiplications (0 to 1).

    Matrix products below a share of 0.3 % are left out: they would lose accuracy without saving time.
    """
    work: dict[str, float] = {}
    kinds = {node.name: node.op_type for node in editor.graph.node}
    for node in editor.graph.node:
        if len(node.input) < 2 or node.input[1] not in editor.tensors:
            continue
        weight, output = editor.shape(node.input[1]), editor.shape(node.output[0])
        if weight is None or output is None:
            continue
        if node.op_type == "Conv":
            work[node.name] = float(np.prod(output)) * float(np.prod(weight[1:]))
        elif node.op_type == "MatMul" and len(weight) == 2:
            work[node.name] = float(np.prod(output)) * weight[0]
    total = sum(work.values())
    return {
        name: amount / total
        for name, amount in work.items()
        if kinds[name] == "Conv" or amount >= _LEAST_SHARE * total
    }


def observed_values(editor: Editor, chosen: Iterable[str], target: Target) -> dict[str, int]:
    """Return the values whose statistics `quantize` needs, with the index of their channel axis."""
    nodes = _nodes(editor, chosen)
    inputs = {node.input[0]: 1 if node.op_type == "Conv" else -1 for node in nodes}
    return {**dict.fromkeys(_static_values(editor, nodes, target), 1), **inputs}


def observed_patches(editor: Editor, chosen: Iterable[str]) -> list[Patches]:
    """Return the patches whose covariances `quantize` can use."""
    nodes = _nodes(editor, chosen)
    patches = (Patches.of(node, editor.tensors[node.input[1]].dims) for node in nodes)
    return list(dict.fromkeys(entry for entry in patches if entry is not None))


def _static_values(editor: Editor, nodes: Iterable[onnx.NodeProto], target: Target) -> list[str]:
    """Return the values with static quantization ranges."""
    values: dict[str, None] = {}
    for node in nodes:
        if node.op_type == "Conv" or target == "qdq":
            values[node.input[0]] = None
        if node.op_type == "Conv" and target == "ort":
            values[_activated(editor, node.output[0])] = None
    if target == "ort":
        for add in _residuals(editor, set(values)):
            values[_activated(editor, add.output[0])] = None
    return list(values)


def quantize(editor: Editor, chosen: Iterable[str], observed: Mapping[str, Observed], target: Target) -> None:
    """Make nodes compute in int8.

    Args:
        editor: graph to change; `folded` has folded constants into its convolutions.
        chosen: names among `candidates`.
        observed: statistics of `observed_values` by name.
        target: quantization target.
    """
    nodes = _nodes(editor, chosen)
    values = _static_values(editor, nodes, target)
    readers = {name: list(editor.consumers[name]) for name in values}
    scales = {name: _add_scale(editor, name, observed[name], target) for name in values}
    for node in nodes:
        if node.op_type == "Conv" or target == "qdq":
            _quantize_static(editor, node, scales[node.input[0]], observed[node.input[0]], target)
        else:
            _quantize_dynamic(editor, node, observed[node.input[0]])
    integer = {node.name for node in nodes}
    for name in values:
        # For `ort` all nodes read the rounded value, so that it is stored once; transformers of `qdq` add exact ones.
        chosen_readers = [
            node
            for node in readers[name]
            if target == "ort" or node.name in integer or _adds_convolution(editor, node)
        ]
        # Runtimes fuse the second node with the readers.
        scale = [f"{name}_scale", f"{name}_zero"]
        editor.add_node("QuantizeLinear", [name, *scale], [f"{name}_int8"])
        editor.add_node("DequantizeLinear", [f"{name}_int8", *scale], [f"{name}_rounded"])
        editor.redirect(name, f"{name}_rounded", chosen_readers)
    editor.refresh()


def _nodes(editor: Editor, chosen: Iterable[str]) -> list[onnx.NodeProto]:
    names = set(chosen)
    return [node for node in editor.graph.node if node.name in names]


def _activated(editor: Editor, name: str) -> str:
    """Return the output of the activation that is the value's only reader, else the value itself."""
    node = editor.sole_consumer(name)
    return node.output[0] if node is not None and node.op_type in _FUSED else name


def _adds_convolution(editor: Editor, node: onnx.NodeProto) -> bool:
    """Return whether a node adds the output of a convolution."""
    makers = [editor.producers.get(name) for name in node.input]
    return node.op_type == "Add" and any(maker is not None and maker.op_type == "Conv" for maker in makers)


def _residuals(editor: Editor, integer: set[str]) -> list[onnx.NodeProto]:
    """Return the additions of two quantized values, including sums of such additions."""
    known, additions = set(integer), []
    for node in editor.graph.node:  # in the order of computation
        if node.op_type == "Add" and all(name in known for name in node.input):
            additions.append(node)
            known.add(_activated(editor, node.output[0]))
    return additions


def _add_scale(editor: Editor, name: str, observed: Observed, target: Target) -> np.float32:
    """Add the scale and the zero point of a value, NAME_scale and NAME_zero; return the scale."""
    low, high = min(observed.low, 0.0), max(observed.high, 0.0)
    if target == "qdq":
        scale, zero = np.float32(max(-low, high, 1e-8) / 127), np.array(0, np.int8)
    else:
        scale = np.float32(max(high - low, 1e-8) / 255)
        zero = np.array(np.clip(round(-low / float(scale)), 0, 255), np.uint8)
    editor.add_constant(f"{name}_scale", np.array(scale))
    editor.add_constant(f"{name}_zero", zero)
    return scale


def _quantize_static(
    editor: Editor, node: onnx.NodeProto, scale: np.float32, observed: Observed, target: Target
) -> None:
    """Quantize the weights of a convolution or product and, for `ort`, its bias."""
    bias = editor.constant(node.input[2]) if len(node.input) > 2 else None
    least = None if bias is None else (np.abs(bias) / (scale * _BIAS_LIMIT)).astype(np.float32)
    axis = 0 if node.op_type == "Conv" else 1
    rounded, scales = _quantize_weight(editor, node, axis, observed, paired=target == "ort", least=least)
    name = f"{node.output[0]}_weight"
    parts = [*rounded, editor.add_constant(f"{name}_zeros", np.zeros(len(scales), np.int8))]
    editor.add_node("DequantizeLinear", parts, [f"{name}_rounded"], axis=axis)
    node.input[1] = f"{name}_rounded"
    if target == "ort" and len(node.input) > 2:
        _quantize_bias(editor, node, scale * scales)


def _quantize_weight(
    editor: Editor,
    node: onnx.NodeProto,
    axis: int,
    observed: Observed,
    *,
    paired: bool,
    least: NDArray[np.float32] | None = None,
) -> tuple[list[str], NDArray[np.float32]]:
    """Add integer weights and correct the bias; return the names of weights and scales, and the scales [M]."""
    constant = editor.constant(node.input[1])
    assert constant is not None
    weight = constant.astype(np.float32)
    patches = Patches.of(node, weight.shape)
    covariance = None if patches is None else observed.covariances.get(patches)
    rounded, scales = integers(weight, axis, paired=paired, least=least, covariance=covariance)
    floats = rounded * scales.reshape([-1 if i == axis else 1 for i in range(rounded.ndim)])
    _correct_bias(editor, node, shift(weight, floats, observed.mean))
    name = f"{node.output[0]}_weight"
    names = [editor.add_constant(f"{name}_int8", rounded), editor.add_constant(f"{name}_scales", scales)]
    return names, scales


def _correct_bias(editor: Editor, node: onnx.NodeProto, shifted: NDArray[np.float32]) -> None:
    """Subtract the mean error of rounded weights [M] from the bias, if there is a bias."""
    reader, index = node, 2
    if node.op_type != "Conv":
        addition = _bias_addition(editor, node, len(shifted))
        if addition is None:
            return
        reader, index = addition
    if len(reader.input) > index:
        bias = editor.constant(reader.input[index])
        assert bias is not None
        reader.input[index] = editor.add_constant(
            f"{reader.output[0]}_corrected", bias.astype(np.float32) - shifted
        )


def _bias_addition(editor: Editor, node: onnx.NodeProto, channels: int) -> tuple[onnx.NodeProto, int] | None:
    """Return the addition of a constant per channel to a product, and the index of that constant's input."""
    add = editor.sole_consumer(node.output[0])
    if add is None or add.op_type != "Add":
        return None
    for index, name in enumerate(add.input):
        if name in editor.tensors and editor.shape(name) == (channels,):
            return add, index
    return None


def _quantize_bias(editor: Editor, node: onnx.NodeProto, scales: NDArray[np.float32]) -> None:
    bias = editor.constant(node.input[2])
    assert bias is not None
    name = f"{node.output[0]}_bias"
    parts = [
        editor.add_constant(f"{name}_int32", np.rint(bias.astype(np.float64) / scales).astype(np.int32)),
        editor.add_constant(f"{name}_scales", scales.astype(np.float32)),
        editor.add_constant(f"{name}_zeros", np.zeros(len(scales), np.int32)),
    ]
    editor.add_node("DequantizeLinear", parts, [f"{name}_rounded"], axis=0)
    node.input[2] = f"{name}_rounded"


def _quantize_dynamic(editor: Editor, node: onnx.NodeProto, observed: Observed) -> None:
    """Replace a product, and the addition of its bias, by an operator that quantizes its input at run time."""
    rounded, scales = _quantize_weight(editor, node, 1, observed, paired=True)
    inputs = [node.input[0], *rounded]
    addition = _bias_addition(editor, node, len(scales))
    if addition is not None:
        add, index = addition
        inputs += ["", add.input[index]]
        node.output[0] = add.output[0]
        editor.remove([add])
    node.op_type, node.domain = "DynamicQuantizeMatMul", "com.microsoft"
    if node.domain not in {opset.domain for opset in editor.model.opset_import}:
        editor.model.opset_import.append(onnx.helper.make_opsetid(node.domain, 1))
    del node.input[:]
    node.input.extend(inputs)
