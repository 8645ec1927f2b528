"""Storage of weights: fp16 where it is exact, and one copy for all graphs of a network.

A graph is its own part appended to the shared weights, byte by byte. Protobuf merges concatenated messages, so that
any ONNX reader can read the result, and a second graph adds little to the size of a bundle.
"""

import hashlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import ml_dtypes
import numpy as np
import onnx
from onnx import numpy_helper

__all__ = ["in_half_precision", "part_weights", "without_shared"]

_LEAST_BYTES = 1024  # smaller tensors stay in their graph, as they are
# Least share of the shared weights that a graph must use, since all of them are loaded with it; else it is unchanged.
_LEAST_SHARE = 0.1
_TYPES: Mapping[int, Any] = {
    onnx.TensorProto.FLOAT: np.float32,
    onnx.TensorProto.FLOAT16: np.float16,
    onnx.TensorProto.BFLOAT16: ml_dtypes.bfloat16,
}


def in_half_precision(graph: bytes) -> bytes:
    """Return the graph with fp16 initializers and casts to fp32 wherever fp16 holds the values exactly.

    Values that were not rounded before, such as position codes and constants computed at export, stay fp32. Runtimes
    compute the casts once, when they open the graph.
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
    return bytes(model.SerializeToString())


def part_weights(graphs: Sequence[bytes]) -> tuple[bytes, list[bytes]]:
    """Separate the weights that all graphs share from the rest of each graph.

    Args:
        graphs: ONNX files.

    Returns:
        The weights, and one part per graph. `weights + part` is the graph, except for the names and the order of its
        weights.
    """
    models = [onnx.load_model_from_string(graph) for graph in graphs]
    shared = set.intersection(
        *({_name(tensor) for tensor in model.graph.initializer} for model in models)
    ) - {""}
    tensors = {_name(tensor): tensor for tensor in models[0].graph.initializer}
    weights = onnx.ModelProto()
    for name in sorted(shared):
        weights.graph.initializer.add().CopyFrom(tensors[name])
        weights.graph.initializer[-1].name = name
    for model in models:
        _remove(model.graph, shared)
    return weights.SerializeToString(), [model.SerializeToString() for model in models]


def without_shared(graph: bytes, weights: bytes) -> bytes:
    """Return a graph without the weights of `part_weights`; unchanged if it uses less than a tenth of them.

    A constant that is a shared weight rounded to another float type becomes a cast of it.
    """
    model = onnx.load_model_from_string(graph)
    shared = {tensor.name: tensor for tensor in onnx.load_model_from_string(weights).graph.initializer}
    sources = _rounded(model.graph.initializer, shared)
    used = ({_name(tensor) for tensor in model.graph.initializer} & set(shared)) | set(sources.values())
    sizes = {name: len(tensor.raw_data) for name, tensor in shared.items()}
    if not used or sum(sizes[name] for name in used) < _LEAST_SHARE * sum(sizes.values()):
        return graph
    _cast(model.graph, sources)
    _remove(model.graph, used)
    return bytes(model.SerializeToString())


def _rounded(tensors: Iterable[onnx.TensorProto], shared: Mapping[str, onnx.TensorProto]) -> dict[str, str]:
    """Return the tensors that are a shared weight in another float type, each with the name of this weight."""
    own = {tensor.name: (_name(tensor), tensor.data_type) for tensor in tensors}
    candidates = {
        name: key for name, (key, kind) in own.items() if key not in {"", *shared} and kind in _TYPES
    }
    names: dict[str, str] = {}
    for kind in {own[name][1] for name in candidates}:
        for source in shared.values():
            if source.data_type in _TYPES and source.data_type != kind:
                with np.errstate(over="ignore"):
                    values = numpy_helper.to_array(source).astype(np.float32).astype(_TYPES[kind])
                names[_digest(kind, source.dims, values.tobytes())] = source.name
    return {name: names[key] for name, key in candidates.items() if key in names}


def _cast(graph: onnx.GraphProto, sources: Mapping[str, str]) -> None:
    """Replace initializers of a graph by casts of shared weights."""
    # One cast each: OpenVINO keeps a cast from fp16 to fp32 for run time, and with it all that follows.
    casts = [
        onnx.helper.make_node("Cast", [sources[tensor.name]], [tensor.name], to=tensor.data_type)
        for tensor in graph.initializer
        if tensor.name in sources
    ]
    own = [tensor for tensor in graph.initializer if tensor.name not in sources]
    nodes = [*casts, *graph.node]
    del graph.initializer[:], graph.node[:]
    graph.initializer.extend(own)
    graph.node.extend(nodes)


def _name(tensor: onnx.TensorProto) -> str:
    """Return the name of a shared tensor, a digest of type, shape and content; empty for a small tensor."""
    if len(tensor.raw_data) < _LEAST_BYTES:
        return ""
    return _digest(tensor.data_type, tensor.dims, tensor.raw_data)


def _digest(kind: int, dims: Sequence[int], raw: bytes) -> str:
    digest = hashlib.sha256(f"{kind} {list(dims)} ".encode())
    digest.update(raw)
    return f"weight_{digest.hexdigest()[:32]}"


def _remove(graph: onnx.GraphProto, shared: Collection[str]) -> None:
    """Remove shared initializers from a graph, and rename them in all nodes."""
    names = {tensor.name: name for tensor in graph.initializer if (name := _name(tensor)) in shared}
    own = [tensor for tensor in graph.initializer if tensor.name not in names]
    del graph.initializer[:]
    graph.initializer.extend(own)
    for node in graph.node:
        for index, name in enumerate(node.input):
            node.input[index] = names.get(name, name)
