"""Integer arithmetic, in the two dialects that runtimes want.

`ort`: for ONNX Runtime on CPUs. Convolutions take unsigned activations with static ranges and give such; products with
constant matrices quantise their activations as they come. `trt`: for TensorRT. Signed, symmetric, static, zero point 0;
activations are quantised in front of convolutions and products, which give floats.

Weights are signed, with a scale for each output channel. In `ort` they have 7 bits: processors without dot-product
instructions add pairs of products in 16 bits, which 8 overflow.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import onnx
from numpy.typing import NDArray

from idol_export.editing import Editor

__all__ = ["Dialect", "Range", "candidates", "observed_values", "quantise"]

Dialect = Literal["ort", "trt"]
Range = tuple[float, float]

_FUSED = ("Relu", "Clip")  # what becomes part of the rounding behind a convolution
_LEAST_SHARE = 0.003  # of all multiplications
_BITS = {"ort": 7, "trt": 8}
# A bias counts in steps of both scales; beside a sum of products it must not leave 32 bits.
_BIAS_LIMIT = np.float32(2**29)


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


def observed_values(editor: Editor, chosen: Iterable[str], dialect: Dialect) -> list[str]:
    """The values whose ranges `quantise` needs."""
    wanted: dict[str, None] = {}
    for node in _nodes(editor, chosen):
        if node.op_type == "Conv" or dialect == "trt":
            wanted[node.input[0]] = None
        if node.op_type == "Conv" and dialect == "ort":
            wanted[_activated(editor, node.output[0])] = None
    if dialect == "ort":
        for add in _residuals(editor, set(wanted)):
            wanted[_activated(editor, add.output[0])] = None
    return list(wanted)


def quantise(editor: Editor, chosen: Iterable[str], ranges: Mapping[str, Range], dialect: Dialect) -> None:
    """Has these nodes compute in integers.

    Args:
        editor: the graph, whose convolutions have no constants behind them (`fold_norms`).
        chosen: names among `candidates`.
        ranges: of `observed_values`, on frames like those to come.
        dialect: of the runtime.
    """
    nodes = _nodes(editor, chosen)
    values = observed_values(editor, [node.name for node in nodes], dialect)
    readers = {name: list(editor.consumers[name]) for name in values}
    scales = {name: _scale(editor, name, ranges[name], dialect) for name in values}
    for node in nodes:
        if node.op_type == "Conv" or dialect == "trt":
            _static(editor, node, scales[node.input[0]], dialect)
        else:
            _dynamic(editor, node)
    integer = {node.name for node in nodes}
    for name in values:
        # In `trt` only what computes in integers reads the rounded value; in `ort` all do, so that it exists once.
        chosen_readers = (
            readers[name] if dialect == "ort" else [n for n in readers[name] if n.name in integer]
        )
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


def _scale(editor: Editor, name: str, limits: Range, dialect: Dialect) -> _Scale:
    low, high = min(limits[0], 0.0), max(limits[1], 0.0)
    if dialect == "trt":
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


def _integers(
    weight: NDArray[np.float32], axis: int, bits: int, least: NDArray[np.float32] | None = None
) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Symmetric integers with a scale for each index of `axis`, no scale below `least`."""
    limit = 2 ** (bits - 1) - 1
    others = tuple(i for i in range(weight.ndim) if i != axis)
    scale = np.maximum(np.abs(weight).max(axis=others), 1e-8) / np.float32(limit)
    if least is not None:
        scale = np.maximum(scale, least)
    scale = scale.astype(np.float32)
    shape = [-1 if i == axis else 1 for i in range(weight.ndim)]
    rounded = np.clip(np.rint(weight / scale.reshape(shape)), -limit, limit).astype(np.int8)
    return rounded, scale


def _static(editor: Editor, node: onnx.NodeProto, scale: _Scale, dialect: Dialect) -> None:
    """Constant integers for the weights and, in `ort`, the bias of a convolution or product."""
    name = node.input[1]
    weight = editor.constant(name)
    assert weight is not None
    axis = 0 if node.op_type == "Conv" else 1
    bias = editor.constant(node.input[2]) if len(node.input) > 2 else None
    step = scale.value * _BIAS_LIMIT
    least = None if bias is None else (np.abs(bias) / step).astype(np.float32)
    rounded, scales = _integers(weight.astype(np.float32), axis, _BITS[dialect], least)
    parts = [
        editor.add_constant(f"{name}_int8", rounded),
        editor.add_constant(f"{name}_scales", scales),
        editor.add_constant(f"{name}_zeros", np.zeros(len(scales), np.int8)),
    ]
    if f"{name}_rounded" not in editor.producers:
        editor.producers[f"{name}_rounded"] = editor.add_node(
            "DequantizeLinear", parts, [f"{name}_rounded"], axis=axis
        )
    node.input[1] = f"{name}_rounded"
    if dialect == "ort" and len(node.input) > 2:
        _bias(editor, node, scale.value * scales)


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


def _dynamic(editor: Editor, node: onnx.NodeProto) -> None:
    """A product whose activations get their range when they are there; with the bias that is added behind it."""
    name = node.input[1]
    weight = editor.constant(name)
    assert weight is not None
    rounded, scales = _integers(weight.astype(np.float32), 1, _BITS["ort"])
    inputs = [
        node.input[0],
        editor.add_constant(f"{name}_int8", rounded),
        editor.add_constant(f"{name}_scales", scales),
    ]
    bias = editor.sole_consumer(node.output[0])
    if bias is not None and bias.op_type == "Add":
        other = next((value for value in bias.input if value != node.output[0]), "")
        if editor.shape(other) == (len(scales),) and other in editor.tensors:
            inputs += ["", other]
            node.output[0] = bias.output[0]
            editor.remove([bias])
    editor.need_domain("com.microsoft", 1)
    node.op_type, node.domain = "DynamicQuantizeMatMul", "com.microsoft"
    del node.input[:]
    node.input.extend(inputs)
