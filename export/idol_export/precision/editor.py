"""An ONNX graph that is being changed: who makes a value, who reads it, what is constant, what shape it has."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

__all__ = ["Editor"]


class Editor:
    """Reads and rewires a graph; `to_bytes` puts its nodes in order and drops what nothing reads.

    The maps are of the graph as it was opened or last `refresh`ed.
    """

    def __init__(self, graph: bytes) -> None:
        self.model = onnx.load_model_from_string(graph)
        self.graph = self.model.graph
        for index, node in enumerate(self.graph.node):
            node.name = node.name or f"{node.op_type}_{index}"
        self._arrays: dict[str, NDArray[np.generic]] = {}
        self.refresh()

    def refresh(self) -> None:
        """Looks at the graph again."""
        self.tensors = {tensor.name: tensor for tensor in self.graph.initializer}
        self.producers = {name: node for node in self.graph.node for name in node.output if name}
        self.consumers: dict[str, list[onnx.NodeProto]] = defaultdict(list)
        for node in self.graph.node:
            for name in dict.fromkeys(node.input):
                self.consumers[name].append(node)
        self.outputs = {value.name for value in self.graph.output}
        values = (*self.graph.input, *self.graph.value_info, *self.graph.output)
        self._types = {value.name: value.type.tensor_type for value in values}

    def constant(self, name: str) -> NDArray[np.generic] | None:
        """The values of an initializer; None for what is computed."""
        if name not in self._arrays and name in self.tensors:
            self._arrays[name] = numpy_helper.to_array(self.tensors[name])
        return self._arrays.get(name)

    def shape(self, name: str) -> tuple[int, ...] | None:
        """Of a value; a free dimension is 1; None where it is not known."""
        if name in self.tensors:
            return tuple(self.tensors[name].dims)
        if name not in self._types:
            return None
        return tuple(max(d.dim_value, 1) for d in self._types[name].shape.dim)

    def is_float(self, name: str) -> bool:
        """Whether it is a float32 value, computed or constant."""
        if name in self.tensors:
            return bool(self.tensors[name].data_type == onnx.TensorProto.FLOAT)
        return name in self._types and bool(self._types[name].elem_type == onnx.TensorProto.FLOAT)

    def sole_consumer(self, name: str) -> onnx.NodeProto | None:
        """The one node that reads a value which is no output of the graph."""
        readers = self.consumers.get(name, [])
        return readers[0] if len(readers) == 1 and name not in self.outputs else None

    def makers_of(self, name: str, through: Callable[[onnx.NodeProto], bool] = lambda _: True) -> set[str]:
        """Names of the nodes that a value is computed by, as far back as `through` holds of them."""
        found: set[str] = set()
        waiting = [name]
        while waiting:
            node = self.producers.get(waiting.pop())
            if node is not None and node.name not in found and through(node):
                found.add(node.name)
                waiting.extend(node.input)
        return found

    def add_constant(self, name: str, array: NDArray[np.generic]) -> str:
        """A new initializer, unless there is one of this name; returns the name."""
        if name not in self.tensors:
            tensor = numpy_helper.from_array(array, name)
            self.graph.initializer.append(tensor)
            self.tensors[name] = tensor
            self._arrays[name] = array
        return name

    def add_node(
        self, kind: str, inputs: Sequence[str], outputs: Sequence[str], domain: str = "", **attributes: Any
    ) -> onnx.NodeProto:
        """A new node, named after its kind and first output."""
        node = onnx.helper.make_node(
            kind, inputs, outputs, f"{kind}_{outputs[0]}", domain=domain, **attributes
        )
        self.graph.node.append(node)
        return node

    def redirect(self, old: str, new: str, readers: Sequence[onnx.NodeProto]) -> None:
        """Has these nodes read another value."""
        for node in readers:
            for index, name in enumerate(node.input):
                if name == old:
                    node.input[index] = new

    def remove(self, nodes: Sequence[onnx.NodeProto]) -> None:
        """Takes nodes out."""
        for node in nodes:
            self.graph.node.remove(node)  # in place: others keep what they hold of the graph
        self.refresh()

    def need_domain(self, domain: str, version: int) -> None:
        """Declares a set of operators."""
        if domain not in {opset.domain for opset in self.model.opset_import}:
            self.model.opset_import.append(onnx.helper.make_opsetid(domain, version))

    def to_bytes(self) -> bytes:
        """The graph: nodes after those that they read of, no constant that nothing reads."""
        model = onnx.ModelProto()
        model.CopyFrom(self.model)
        graph = model.graph
        del graph.node[:], graph.initializer[:], graph.value_info[:]
        graph.node.extend(_sorted(self.graph.node))
        read = {name for node in graph.node for name in node.input} | self.outputs
        graph.initializer.extend(tensor for tensor in self.graph.initializer if tensor.name in read)
        made = {name for node in graph.node for name in node.output}
        graph.value_info.extend(value for value in self.graph.value_info if value.name in made)
        data: bytes = model.SerializeToString()
        return data


def _sorted(nodes: Sequence[onnx.NodeProto]) -> list[onnx.NodeProto]:
    """Each behind those whose values it reads."""
    makers = {name: index for index, node in enumerate(nodes) for name in node.output if name}
    needs = [{makers[name] for name in node.input if name in makers} for node in nodes]
    readers: dict[int, list[int]] = defaultdict(list)
    for index, needed in enumerate(needs):
        for need in needed:
            readers[need].append(index)
    missing = [len(needed) for needed in needs]
    ready = [index for index, count in enumerate(missing) if not count]
    order = []
    while ready:
        index = ready.pop()
        order.append(nodes[index])
        for reader in readers[index]:
            missing[reader] -= 1
            if not missing[reader]:
                ready.append(reader)
    assert len(order) == len(nodes), "a graph has no cycles"
    return order
