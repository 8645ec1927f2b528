"""Graphs of one network, parted into the weights that they share and what is each one's own.

A graph is its own part behind the weights, byte after byte: protobuf merges messages that are joined, so that
whatever reads ONNX reads the pair, and a bundle with two graphs is hardly larger than with one.
"""

import hashlib
from collections.abc import Sequence

import onnx

__all__ = ["part_weights"]

# Below this a tensor is not worth a name that all graphs agree on; it stays with its graph.
_LEAST_BYTES = 1024


def part_weights(graphs: Sequence[bytes]) -> tuple[bytes, list[bytes]]:
    """The weights that all graphs share, and the rest of each.

    Args:
        graphs: ONNX files.

    Returns:
        The weights, then the parts in the order of `graphs`; `weights + part` is the graph again, but for the names
        and the order of its weights.
    """
    models = [onnx.load_model_from_string(graph) for graph in graphs]
    digests = [[_digest(tensor) for tensor in model.graph.initializer] for model in models]
    common = set.intersection(*map(set, digests)) - {""}
    shared: dict[str, onnx.TensorProto] = {}
    for model, found in zip(models, digests, strict=True):
        names, own = {}, []
        for tensor, digest in zip(model.graph.initializer, found, strict=True):
            if digest in common:
                names[tensor.name] = f"weight_{digest}"
                shared.setdefault(digest, tensor).name = f"weight_{digest}"
            else:
                own.append(tensor)
        _rename(model.graph, names)
        del model.graph.initializer[:]
        model.graph.initializer.extend(own)
    weights = onnx.ModelProto()
    weights.graph.initializer.extend(shared[digest] for digest in sorted(shared))
    return weights.SerializeToString(), [model.SerializeToString() for model in models]


def _digest(tensor: onnx.TensorProto) -> str:
    """Of a tensor's type, shape and content; empty where it is too small to share."""
    if len(tensor.raw_data) < _LEAST_BYTES:
        return ""
    digest = hashlib.sha256(f"{tensor.data_type} {list(tensor.dims)} ".encode())
    digest.update(tensor.raw_data)
    return digest.hexdigest()[:32]


def _rename(graph: onnx.GraphProto, names: dict[str, str]) -> None:
    """Of initializers, wherever they are read."""
    for node in graph.node:
        for index, name in enumerate(node.input):
            node.input[index] = names.get(name, name)
