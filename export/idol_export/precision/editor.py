"""An editable ONNX graph with maps of producers, consumers, constants and shapes."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from graphlib import TopologicalSorter
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

__all__ = ["Editor"]


class Editor:
    """An ONNX graph to read and to rewire.

    The maps of the graph are computed when it is opened, and again by `refresh`. `to_bytes` sorts the nodes and drops
    unused constants.

    Attributes:
        tensors: initializers by name.
        producers: node that computes each value.
        consumers: nodes that read each value.
        outputs: names of the graph's outputs.
    """

    def __init__(self, graph: bytes) -> None:
        self.model = onnx.load_model_from_string(graph)
        self.graph = self.model.graph
        for index, node in enumerate(self.graph.node):
            node.name = node.name or f"{node.op_type}_{index}"
        self.refresh()

    def refresh(self) -> None:
        """Compute the maps again, after a change of the graph."""
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
        """Return the array of an initializer; None for a computed value."""
        return numpy_helper.to_array(self.tensors[name]) if name in self.tensors else None

    def shape(self, name: str) -> tuple[int, ...] | None:
        """Return the shape of a value, with 1 for free dimensions; None if it is unknown."""
        if name in self.tensors:
            return tuple(self.tensors[name].dims)
        if name not in self._types:
            return None
        return tuple(max(d.dim_value, 1) for d in self._types[name].shape.dim)

    def is_float(self, name: str) -> bool:
        """Return whether a value, computed or constant, is float32."""
        if name in self.tensors:
            return bool(self.tensors[name].data_type == onnx.TensorProto.FLOAT)
        return name in self._types and bool(self._types[name].elem_type == onnx.TensorProto.FLOAT)

    def sole_consumer(self, name: str) -> onnx.NodeProto | None:
        """Return the only reader of a value; None if there are several or the value is an output of the graph."""
        readers = self.consumers.get(name, [])
        return readers[0] if len(readers) == 1 and name not in self.outputs else None

    def makers_of(self, name: str, through: Callable[[onnx.NodeProto], bool] = lambda _: True) -> set[str]:
        """Return the names of the nodes that compute a value, back to the first nodes for which `through` is False."""
        makers: set[str] = set()
        values = [name]
        while values:
            node = self.producers.get(values.pop())
            if node is not None and node.name not in makers and through(node):
                makers.add(node.name)
                values.extend(node.input)
        return makers

    def add_constant(self, name: str, array: NDArray[np.generic]) -> str:
        """Add an initializer unless its name exists; return the name."""
        if name not in self.tensors:
            tensor = numpy_helper.from_array(array, name)
            self.graph.initializer.append(tensor)
            self.tensors[name] = tensor
        return name

    def add_node(self, kind: str, inputs: Sequence[str], outputs: Sequence[str], **attributes: Any) -> None:
        """Add a node, named after its operator and first output."""
        name = f"{kind}_{outputs[0]}"
        self.graph.node.append(onnx.helper.make_node(kind, inputs, outputs, name, **attributes))

    def redirect(self, old: str, new: str, readers: Iterable[onnx.NodeProto]) -> None:
        """Make these nodes read another value."""
        for node in readers:
            for index, name in enumerate(node.input):
                if name == old:
                    node.input[index] = new

    def remove(self, nodes: Sequence[onnx.NodeProto]) -> None:
        """Remove nodes."""
        for node in nodes:
            self.graph.node.remove(node)  # in place, so that references to other nodes stay valid
        self.refresh()

    def to_bytes(self) -> bytes:
        """Return the ONNX file, with nodes in topological order and without unused constants."""
        model = onnx.ModelProto()
        model.CopyFrom(self.model)
        graph = model.graph
        del graph.node[:], graph.initializer[:], graph.value_info[:]
        graph.node.extend(_sorted(self.graph.node))
        read = {name for node in graph.node for name in node.input} | self.outputs
        graph.initializer.extend(tensor for tensor in self.graph.initializer if tensor.name in read)
        made = {name for node in graph.node for name in node.output}
        graph.value_info.extend(value for value in self.graph.value_info if value.name in made)
        return bytes(model.SerializeToString())


def _sorted(nodes: Sequence[onnx.NodeProto]) -> list[onnx.NodeProto]:
    """Return the nodes in topological order."""
    makers = {name: index for index, node in enumerate(nodes) for name in node.output if name}
    sorter = TopologicalSorter[int](dict.fromkeys(range(len(nodes)), ()))
    for index, node in enumerate(nodes):
        sorter.add(index, *(makers[name] for name in node.input if name in makers))
    sorter.prepare()
    order, ready = [], list(sorter.get_ready())
    while ready:  # the last ready node first, which calibration's random sampling depends on
        index = ready.pop()
        order.append(nodes[index])
        sorter.done(index)
        ready += sorter.get_ready()
    return order
