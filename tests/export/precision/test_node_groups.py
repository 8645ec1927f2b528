"""Groups of nodes in a small network with windows and in a mobile one."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import onnx
import pytest
from onnx import TensorProto, helper

from idol_export.graph.adapter import ExportGraph
from idol_export.graph.tracing import probe_to_onnx
from idol_export.precision.editor import Editor
from idol_export.precision.folding import folded
from idol_export.precision.node_groups import GROUPS, KEPT, PARTS, groups_of, is_kept, linear_values, parts_of

if TYPE_CHECKING:
    from tests.conftest import Toy


def _by_weight(editor: Editor, found: dict[str, str]) -> dict[str, str]:
    return {
        name: found[node.name] for node in editor.graph.node for name in node.input if name in editor.tensors
    }


def test_parts_of_the_network(toy: Toy) -> None:
    editor = Editor(toy.probe)
    parts = parts_of(editor)
    assert set(parts.values()) == set(PARTS)
    weights = _by_weight(editor, parts)
    assert weights["model.neck.projections.0.0.weight"] == "neck"
    assert weights["model.mask_head.lay3.weight"] == "heads"


def test_groups_of_the_network(toy: Toy) -> None:
    editor = Editor(toy.probe)
    groups = groups_of(editor)
    assert set(groups.values()) <= set(GROUPS)
    counts = Counter(groups[node.name] for node in editor.graph.node if node.op_type in ("Conv", "MatMul"))
    assert counts["first"] == 1
    assert counts["normalised"] == 4, "the neck's four projections"
    assert {"backbone/4", "backbone/8", "backbone/16", "backbone/32", "encoder"} <= set(counts)


@pytest.mark.slow  # a second network to trace
def test_groups_are_the_same_where_batches_are_of_any_size(toy: Toy) -> None:
    """The shape before a normalisation is computed from the normalised value."""
    probe = probe_to_onnx(ExportGraph(toy.model, toy.size), dynamic_batch=True)
    kinds = [groups_of(Editor(graph)) for graph in (folded(toy.probe), folded(probe))]
    counts = [Counter(group for group in found.values() if group in KEPT[:4]) for found in kinds]
    assert counts[0] == counts[1]
    assert counts[0]["normalised"] == 4


def test_convolutions_of_mobile_networks_are_fragile() -> None:
    """One node reads the image, one is depthwise, two are in a block without a final activation, and one follows it."""
    shapes = {
        "w1": (8, 3, 3, 3),
        "w2": (8, 1, 3, 3),
        "w3": (8, 8, 1, 1),
        "w4": (8, 8, 1, 1),
        "w5": (8, 8, 1, 1),
    }
    names = ("preprocess", "a", "b", "c", "d")
    nodes = [helper.make_node("Identity", ["image"], ["preprocess"], name="first")]
    for index, weight in enumerate(shapes):
        groups = 8 if weight == "w2" else 1
        made = names[index + 1] if index < 4 else "backbone"
        read = "active" if weight == "w5" else names[index]
        nodes.append(helper.make_node("Conv", [read, weight], [made], group=groups, name=weight))
        if weight == "w4":
            nodes.append(helper.make_node("Relu", ["d"], ["active"], name="relu"))
    for part in PARTS[1:-1]:
        nodes.append(helper.make_node("Identity", ["backbone"], [part]))
    tensors = [
        helper.make_tensor(name, TensorProto.FLOAT, shape, bytes(4 * _size(shape)), raw=True)
        for name, shape in shapes.items()
    ]
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 32, 32, 3])
    outputs = [helper.make_tensor_value_info(part, TensorProto.FLOAT, [1, 8, 8, 8]) for part in PARTS[:-1]]
    values = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 8, 8, 8]) for name in (*names, "active")
    ]
    graph = helper.make_graph(nodes, "g", [image], outputs, tensors, value_info=values)
    groups_found = groups_of(Editor(helper.make_model(graph).SerializeToString()))
    assert [groups_found[name] for name in shapes] == [
        "first",
        "depthwise",
        "bottleneck",
        "bottleneck",
        "backbone/4",
    ]
    for kind in ("first", "depthwise", "bottleneck"):
        assert is_kept(kind, "backbone", KEPT)
    assert is_kept("backbone/4", "backbone", ("backbone",))
    assert not is_kept("backbone/4", "backbone", KEPT)


def test_linear_values_are_what_no_activation_changed(bottlenecks: bytes) -> None:
    """The groups are the same if a stage is an output of the probe."""
    assert linear_values(Editor(bottlenecks)) == {"block1", "projected", "block2"}
    model = onnx.load_model_from_string(bottlenecks)
    model.graph.output.append(helper.make_tensor_value_info("block2", TensorProto.FLOAT, None))
    assert linear_values(Editor(model.SerializeToString())) == {"block1", "projected", "block2"}


def test_products_around_the_sampled_values(toy: Toy) -> None:
    """In standard operators, a layer of encoder or decoder has two products before the sampling and one after it."""
    editor = Editor(toy.probe)
    groups = groups_of(editor)
    layers = toy.config.model.encoder_layers + toy.config.model.decoder_layers
    for group in ("sampled", "values"):
        found = [node for node in editor.graph.node if groups[node.name] == group]
        assert [node.op_type for node in found] == ["MatMul"] * layers
    located = [node for node in editor.graph.node if groups[node.name] == "locations"]
    width = 3 * toy.config.model.heads * toy.config.model.levels * toy.config.model.points
    assert [tuple(editor.tensors[node.input[1]].dims)[1:] for node in located] == [(width,)] * layers


def _size(shape: tuple[int, ...]) -> int:
    total = 1
    for side in shape:
        total *= side
    return total
