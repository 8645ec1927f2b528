"""Integer arithmetic, in the two dialects that runtimes want.

`ort`: for ONNX Runtime on CPUs. Convolutions take unsigned activations with static ranges and give such; products with
constant matrices quantise their activations as they come. `trt`: for TensorRT. Signed, symmetric, static, zero point 0;
activations are quantised in front of convolutions and products, which give floats.

Weights are signed, with a scale for each output channel, in `ort` such that no processor's sums overflow. They are
rounded such that their errors take each other back on what calibration saw; what rounding adds to the mean of a channel
is taken off its bias.
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

__all__ = ["Target", "Observed", "candidates", "observed_patches", "observed_values", "quantise"]

Target = Literal["ort", "trt"]

_FUSED = ("Relu", "Clip")  # what becomes part of the rounding behind a convolution
_LEAST_SHARE = 0.003  # of all multiplications
# A bias counts in steps of both scales; beside a sum of products it must not leave 32 bits.
_BIAS_LIMIT = np.float32(2**29)


@dataclass(frozen=True)
class Observed:
    """Of an activation.

    Attributes:
        low: where the range begins that its integers span.
        high: where it ends.
        mean: [C] of its channels.
        covariances: [K, K] of what those read who multiply it; weights are rounded to the nearest without.
    """

    low: float
    high: float
    mean: NDArray[np.float32]
    covariances: Mapping[Patches, NDArray[np.float32]] = field(default_factory=dict)


@dataclass(frozen=True)
class _Scale:
    """Of a value: its names in the graph, and the number."""

    scale: str
    zero: str
    value: np.float32


def candidates(editor: Editor) -> dict[str, float]:
    """Nodes that can compute in integers, by name, and the share of each in what they all multiply.

    Products of next to no share are left out: they would lose accuracy for nothing.
    """
    found: dict[str, float] = {}
    for node in editor.graph.node:
        weight = (
            editor.shape(node.input[1]) if len(node.input) > 1 and node.input[1] in editor.tensors else None
        )
        made = editor.shape(node.output[0]) if node.output else None
        if weight is None or made is None:
            continue
        if node.op_type == "Conv":
            found[node.name] = float(np.prod(made)) * float(np.prod(weight[1:]))
        elif node.op_type == "MatMul" and len(weight) == 2:
            found[node.name] = float(np.prod(made)) * weight[0]
    total = sum(found.values())
    kinds = {node.name: node.op_type for node in editor.graph.node}
    return {
        name: work / total
        for name, work in found.items()
        if kinds[name] == "Conv" or work >= _LEAST_SHARE * total
    }


def observed_values(editor: Editor, chosen: Iterable[str], target: Target) -> dict[str, int]:
    """The values that `quantise` must know of, and which axis is that of their channels."""
    nodes = _nodes(editor, chosen)
    read = {node.input[0]: 1 if node.op_type == "Conv" else -1 for node in nodes}
    return {**dict.fromkeys(_static_values(editor, nodes, target), 1), **read}


def observed_patches(editor: Editor, chosen: Iterable[str]) -> list[Patches]:
    """What these nodes multiply, where `quantise` can use how its parts go together."""
    found = (_patches(editor, node) for node in _nodes(editor, chosen))
    return list(dict.fromkeys(patches for patches in found if patches is not None))


def _patches(editor: Editor, node: onnx.NodeProto) -> Patches | None:
    shape = editor.shape(node.input[1])
    assert shape is not None
    return Patches.of(node, shape)


def _static_values(editor: Editor, nodes: Iterable[onnx.NodeProto], target: Target) -> list[str]:
    """Those that are rounded with ranges found beforehand."""
    wanted: dict[str, None] = {}
    for node in nodes:
        if node.op_type == "Conv" or target == "trt":
            wanted[node.input[0]] = None
        if node.op_type == "Conv" and target == "ort":
            wanted[_activated(editor, node.output[0])] = None
    if target == "ort":
        for add in _residuals(editor, set(wanted)):
            wanted[_activated(editor, add.output[0])] = None
    return list(wanted)


def quantise(editor: Editor, chosen: Iterable[str], observed: Mapping[str, Observed], target: Target) -> None:
    """Has these nodes compute in integers.

    Args:
        editor: the graph, whose convolutions have no constants behind them (`fold_norms`).
        chosen: names among `candidates`.
        observed: of `observed_values`, on frames like those to come.
        target: of the runtime.
    """
    nodes = _nodes(editor, chosen)
    values = _static_values(editor, nodes, target)
    readers = {name: list(editor.consumers[name]) for name in values}
    scales = {name: _scale(editor, name, observed[name], target) for name in values}
    for node in nodes:
        if node.op_type == "Conv" or target == "trt":
            _static(editor, node, scales[node.input[0]], observed[node.input[0]], target)
        else:
            _dynamic(editor, node, observed[node.input[0]])
    integer = {node.name for node in nodes}
    for name in values:
        # In `trt` only what computes in integers reads the rounded value; in `ort` all do, so that it exists once.
        chosen_readers = readers[name] if target == "ort" else [n for n in readers[name] if n.name in integer]
        rounded = _round_trip(editor, name, scales[name])
        editor.redirect(name, rounded, chosen_readers)
    editor.refresh()


def _nodes(editor: Editor, chosen: Iterable[str]) -> list[onnx.NodeProto]:
    names = set(chosen)
    return [node for node in editor.graph.node if node.name in names]


def _activated(editor: Editor, name: str) -> str:
    """The value itself, or what a rectifier makes of it that alone reads it."""
    node = editor.sole_consumer(name)
    return node.output[0] if node is not None and node.op_type in _FUSED else name


def _residuals(editor: Editor, integer: set[str]) -> list[onnx.NodeProto]:
    """Additions of two values that are integers already; of their sums as well."""
    known, found = set(integer), []
    for node in editor.graph.node:  # in the order of computation
        if node.op_type == "Add" and all(name in known for name in node.input):
            found.append(node)
            known.add(_activated(editor, node.output[0]))
    return found


def _scale(editor: Editor, name: str, observed: Observed, target: Target) -> _Scale:
    low, high = min(observed.low, 0.0), max(observed.high, 0.0)
    if target == "trt":
        scale, zero = np.float32(max(-low, high, 1e-8) / 127), np.array(0, np.int8)
    else:
        scale = np.float32(max(high - low, 1e-8) / 255)
        zero = np.array(np.clip(round(-low / float(scale)), 0, 255), np.uint8)
    return _Scale(
        editor.add_constant(f"{name}_scale", np.array(scale)),
        editor.add_constant(f"{name}_zero", zero),
        scale,
    )


def _round_trip(editor: Editor, name: str, scale: _Scale) -> str:
    """To integers and back; runtimes join the second half with whatever reads it."""
    editor.add_node("QuantizeLinear", [name, scale.scale, scale.zero], [f"{name}_int8"])
    editor.add_node("DequantizeLinear", [f"{name}_int8", scale.scale, scale.zero], [f"{name}_rounded"])
    return f"{name}_rounded"


def _static(editor: Editor, node: onnx.NodeProto, scale: _Scale, observed: Observed, target: Target) -> None:
    """Constant integers for the weights and, in `ort`, the bias of a convolution or product."""
    bias = editor.constant(node.input[2]) if len(node.input) > 2 else None
    step = scale.value * _BIAS_LIMIT
    least = None if bias is None else (np.abs(bias) / step).astype(np.float32)
    axis = 0 if node.op_type == "Conv" else 1
    rounded, scales = _rounded(editor, node, axis, observed, paired=target == "ort", least=least)
    name = f"{node.output[0]}_weight"
    parts = [*rounded, editor.add_constant(f"{name}_zeros", np.zeros(len(scales), np.int8))]
    editor.add_node("DequantizeLinear", parts, [f"{name}_rounded"], axis=axis)
    node.input[1] = f"{name}_rounded"
    if target == "ort" and len(node.input) > 2:
        _bias(editor, node, scale.value * scales)


def _rounded(
    editor: Editor,
    node: onnx.NodeProto,
    axis: int,
    observed: Observed,
    *,
    paired: bool,
    least: NDArray[np.float32] | None = None,
) -> tuple[list[str], NDArray[np.float32]]:
    """Names of a node's weights in integers and of their scales, and the scales; its bias has taken what that adds."""
    constant = editor.constant(node.input[1])
    assert constant is not None
    weight = constant.astype(np.float32)
    patches = _patches(editor, node)
    covariance = None if patches is None else observed.covariances.get(patches)
    rounded, scales = integers(weight, axis, paired=paired, least=least, covariance=covariance)
    floats = rounded * scales.reshape([-1 if i == axis else 1 for i in range(rounded.ndim)])
    _correct(editor, node, shift(weight, floats, observed.mean))
    name = f"{node.output[0]}_weight"
    names = [editor.add_constant(f"{name}_int8", rounded), editor.add_constant(f"{name}_scales", scales)]
    return names, scales


def _correct(editor: Editor, node: onnx.NodeProto, shifted: NDArray[np.float32]) -> None:
    """Takes off a bias, where there is one, what the rounding of weights adds to the mean."""
    reader, index = node, 2
    if node.op_type != "Conv":
        found = _bias_behind(editor, node, len(shifted))
        if found is None:
            return
        reader, index = found
    if len(reader.input) > index:
        bias = editor.constant(reader.input[index])
        assert bias is not None
        reader.input[index] = editor.add_constant(
            f"{reader.output[0]}_corrected", bias.astype(np.float32) - shifted
        )


def _bias_behind(editor: Editor, node: onnx.NodeProto, channels: int) -> tuple[onnx.NodeProto, int] | None:
    """The addition of a constant per channel to a product, and which of its inputs that is."""
    add = editor.sole_consumer(node.output[0])
    if add is None or add.op_type != "Add":
        return None
    for index, name in enumerate(add.input):
        if name in editor.tensors and editor.shape(name) == (channels,):
            return add, index
    return None


def _bias(editor: Editor, node: onnx.NodeProto, scales: NDArray[np.float32]) -> None:
    bias = editor.constant(node.input[2])
    assert bias is not None
    name = f"{node.output[0]}_bias"
    integers = np.rint(bias.astype(np.float64) / scales).astype(np.int32)
    parts = [
        editor.add_constant(f"{name}_int32", integers),
        editor.add_constant(f"{name}_scales", scales.astype(np.float32)),
        editor.add_constant(f"{name}_zeros", np.zeros(len(scales), np.int32)),
    ]
    editor.add_node("DequantizeLinear", parts, [f"{name}_rounded"], axis=0)
    node.input[2] = f"{name}_rounded"


def _dynamic(editor: Editor, node: onnx.NodeProto, observed: Observed) -> None:
    """A product whose activations get their range when they are there; with the bias that is added behind it."""
    rounded, scales = _rounded(editor, node, 1, observed, paired=True)
    inputs = [node.input[0], *rounded]
    found = _bias_behind(editor, node, len(scales))
    if found is not None:
        add, index = found
        inputs += ["", add.input[index]]
        node.output[0] = add.output[0]
        editor.remove([add])
    editor.need_domain("com.microsoft", 1)
    node.op_type, node.domain = "DynamicQuantizeMatMul", "com.microsoft"
    del node.input[:]
    node.input.extend(inputs)
