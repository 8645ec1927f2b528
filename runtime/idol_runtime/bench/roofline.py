"""The roofline: the lowest possible time of a frame, from the graph's cost and the measured peaks of the machine.

A frame takes at least its floating-point operations at the speed of a large matrix product, and at least its bytes at
the speed of a large copy. The cost is the portable graph's for every row, so that the shares can be compared.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from idol_runtime.optional import import_optional
from idol_runtime.timing import interleaved

__all__ = ["GraphCost", "Peaks", "count_cost", "measure_peaks"]

_SIDE = 1024  # rows and columns of the matrices
_COPY_BYTES = 2**27  # much larger than any cache


@dataclass(frozen=True)
class GraphCost:
    """The lowest cost of one frame.

    Attributes:
        flops: operations of convolutions and matrix products; a multiplication and an addition count as two.
        bytes: size of their inputs, outputs and weights in fp32, each counted once. Other operators count nothing,
            since they could be fused with these.
    """

    flops: int
    bytes: int


@dataclass(frozen=True)
class Peaks:
    """The measured peaks of the processor.

    Attributes:
        flops: operations per second of a matrix product in fp32.
        bytes: bytes per second of a copy, read and written.
    """

    flops: float
    bytes: float

    def floor_ms(self, cost: GraphCost) -> float:
        """Return the lowest time for a cost, in milliseconds."""
        return 1e3 * max(cost.flops / self.flops, cost.bytes / self.bytes)


def count_cost(graph: bytes) -> GraphCost:
    """Count the cost of one frame from an ONNX graph.

    Args:
        graph: contents of an ONNX file with standard operators only.

    Raises:
        MissingDependencyError: onnx is not installed.
    """
    onnx = import_optional("onnx", "onnx", "bench", "counting a graph's operations")
    model = onnx.load_from_string(graph)
    for tensor in model.graph.input:
        for dimension in tensor.type.tensor_type.shape.dim:
            if not dimension.HasField("dim_value"):
                dimension.dim_value = 1  # the batch
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    shapes = {tensor.name: tuple(tensor.dims) for tensor in inferred.initializer}
    for value in (*inferred.input, *inferred.value_info, *inferred.output):
        shapes[value.name] = tuple(d.dim_value or 1 for d in value.type.tensor_type.shape.dim)
    flops = moved = 0
    for node in inferred.node:
        counted = _flops(node, shapes)
        if counted:
            flops += counted
            moved += 4 * sum(prod(shapes.get(name, ())) for name in (*node.input, *node.output) if name)
    return GraphCost(flops, moved)


def _flops(node: Any, shapes: Mapping[str, tuple[int, ...]]) -> int:
    """Return the operations of a convolution or matrix product, and 0 for other operators."""
    if node.op_type not in ("Conv", "Gemm", "MatMul"):
        return 0
    out, weights = prod(shapes.get(node.output[0], (0,))), shapes.get(node.input[1], ())
    if node.op_type == "Conv":
        return 2 * out * prod(weights[1:])
    transposed = any(attribute.name == "transB" and attribute.i for attribute in node.attribute)
    inner = weights[-1] if transposed else weights[-2] if len(weights) > 1 else prod(weights)
    return 2 * out * inner


def measure_peaks() -> Peaks:
    """Measure the peaks of numpy in this process: the best of five large matrix products and large copies."""
    rng = np.random.default_rng(0)
    left, right = rng.random((2, _SIDE, _SIDE), np.float32)
    product = np.empty_like(left)
    source = np.ones(_COPY_BYTES, np.uint8)
    target = np.empty_like(source)
    multiplied = _fastest_s(lambda: np.matmul(left, right, out=product))
    copied = _fastest_s(lambda: np.copyto(target, source))
    return Peaks(2 * _SIDE**3 / multiplied, 2 * _COPY_BYTES / copied)


def _fastest_s(run: Callable[[], object]) -> float:
    return float(interleaved([run], rounds=5).min()) / 1e3
