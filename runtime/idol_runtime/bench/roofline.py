"""How near a row comes to what the processor could do: work counted from the graph, peaks measured on the machine.

A frame cannot take less than its floating-point operations at the speed of a large matrix product, nor less than its
bytes at the speed of a large copy. Work is that of the portable graph whatever a row runs, so that shares compare.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from idol_runtime.optional import import_optional

__all__ = ["Peaks", "Work", "count_work", "measure_peaks"]

_SIDE = 1024  # of the matrices
_COPY_BYTES = 2**27  # far more than any cache
_TRIES = 5


@dataclass(frozen=True)
class Work:
    """What a frame costs at least.

    Attributes:
        flops: of convolutions and matrix products; a multiplication and an addition are two.
        bytes: of their inputs, outputs and weights, each once in fp32; other operators could be part of these.
    """

    flops: int
    bytes: int


@dataclass(frozen=True)
class Peaks:
    """What the processor reaches.

    Attributes:
        flops: per second, of a matrix product in fp32.
        bytes: per second, read and written, of a copy.
    """

    flops: float
    bytes: float

    def floor_ms(self, work: Work) -> float:
        """The least time for some work, in milliseconds."""
        return 1e3 * max(work.flops / self.flops, work.bytes / self.bytes)


def count_work(graph: bytes) -> Work:
    """Count what an ONNX graph computes for one frame.

    Args:
        graph: an ONNX file in standard operators.

    Raises:
        MissingDependencyError: onnx is not installed.
    """
    onnx = import_optional("onnx", "onnx", "bench", "counting a graph's operations")
    model = onnx.load_from_string(graph)
    for tensor in model.graph.input:
        for dimension in tensor.type.tensor_type.shape.dim:
            if not dimension.HasField("dim_value"):
                dimension.dim_value = 1  # the batch
    found = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    shapes = {tensor.name: tuple(tensor.dims) for tensor in found.initializer}
    for value in (*found.input, *found.value_info, *found.output):
        shapes[value.name] = tuple(d.dim_value or 1 for d in value.type.tensor_type.shape.dim)
    flops = moved = 0
    for node in found.node:
        counted = _flops(node, shapes)
        if counted:
            flops += counted
            moved += 4 * sum(prod(shapes.get(name, ())) for name in (*node.input, *node.output) if name)
    return Work(flops, moved)


def _flops(node: Any, shapes: Mapping[str, tuple[int, ...]]) -> int:
    """Of a convolution or matrix product; 0 of others."""
    if node.op_type not in ("Conv", "Gemm", "MatMul"):
        return 0
    out, weights = prod(shapes.get(node.output[0], (0,))), shapes.get(node.input[1], ())
    if node.op_type == "Conv":
        return 2 * out * prod(weights[1:])
    transposed = any(attribute.name == "transB" and attribute.i for attribute in node.attribute)
    inner = weights[-1] if transposed else weights[-2] if len(weights) > 1 else prod(weights)
    return 2 * out * inner


def measure_peaks() -> Peaks:
    """What numpy reaches in this process, the best of a few tries: a product of large matrices and a large copy."""
    rng = np.random.default_rng(0)
    left, right = rng.random((2, _SIDE, _SIDE), np.float32)
    product = np.empty_like(left)
    source = np.ones(_COPY_BYTES, np.uint8)
    target = np.empty_like(source)
    multiplied = _fastest(lambda: np.matmul(left, right, out=product))
    copied = _fastest(lambda: np.copyto(target, source))
    return Peaks(2 * _SIDE**3 / multiplied, 2 * _COPY_BYTES / copied)


def _fastest(work: Callable[[], object]) -> float:
    """Seconds."""
    taken = []
    for _ in range(_TRIES + 1):
        start = time.perf_counter()
        work()
        taken.append(time.perf_counter() - start)
    return min(taken[1:])
