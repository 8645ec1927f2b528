"""Weights of a graph in 16 bits, and the casts that give them back: the file is smaller, the arithmetic the same."""

import numpy as np
import onnx
from onnx import numpy_helper

__all__ = ["in_half_precision"]

# Below this a tensor is not worth a node.
_LEAST_BYTES = 1024


def in_half_precision(graph: bytes) -> bytes:
    """The same graph with fp16 initializers behind casts to fp32, where fp16 has exactly their values.

    What was not rounded before, such as position codes and anything computed from weights at export, stays fp32.
    Runtimes compute the casts once, when they open the graph.
    """
    model = onnx.load_model_from_string(graph)
    casts = []
    for tensor in model.graph.initializer:
        if tensor.data_type != onnx.TensorProto.FLOAT or len(tensor.raw_data) < _LEAST_BYTES:
            continue
        values = numpy_helper.to_array(tensor)
        with np.errstate(over="ignore"):
            half = values.astype(np.float16)
        if np.array_equal(half.astype(np.float32), values):
            name = tensor.name
            tensor.CopyFrom(numpy_helper.from_array(half, f"{name}_half"))
            casts.append(onnx.helper.make_node("Cast", [tensor.name], [name], to=onnx.TensorProto.FLOAT))
    nodes = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend([*casts, *nodes])
    onnx.checker.check_model(model, full_check=True)
    stored: bytes = model.SerializeToString()
    return stored
