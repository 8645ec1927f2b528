"""Which nodes go together, of a small network with windows and of a mobile one."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from onnx import TensorProto, helper

from idol_export.editing import Editor
from idol_export.node_groups import GROUPS, KEPT, PARTS, groups_of, is_kept, parts_of

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


def test_depthwise_convolutions_are_fragile() -> None:
    shapes = {"w1": (8, 3, 3, 3), "w2": (8, 1, 3, 3), "w3": (8, 8, 1, 1)}
    names = ("preprocess", "a", "b", "backbone")
    nodes = [helper.make_node("Identity", ["image"], ["preprocess"], name="first")]
    for index, weight in enumerate(shapes):
        groups = 8 if weight == "w2" else 1
        nodes.append(
            helper.make_node("Conv", [names[index], weight], [names[index + 1]], group=groups, name=weight)
        )
    for part in PARTS[1:-1]:
        nodes.append(helper.make_node("Identity", ["backbone"], [part]))
    tensors = [
        helper.make_tensor(name, TensorProto.FLOAT, shape, bytes(4 * _size(shape)), raw=True)
        for name, shape in shapes.items()
    ]
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 32, 32, 3])
    outputs = [helper.make_tensor_value_info(part, TensorProto.FLOAT, [1, 8, 8, 8]) for part in PARTS[:-1]]
    made = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 8, 8, 8]) for name in names[:-1]]
    graph = helper.make_graph(nodes, "g", [image], outputs, tensors, value_info=made)
    groups_found = groups_of(Editor(helper.make_model(graph).SerializeToString()))
    assert [groups_found[name] for name in shapes] == ["first", "depthwise", "backbone/4"]
    assert is_kept("depthwise", "backbone", KEPT)
    assert is_kept("backbone/4", "backbone", ("backbone",))
    assert not is_kept("backbone/8", "backbone", KEPT)


def _size(shape: tuple[int, ...]) -> int:
    total = 1
    for side in shape:
        total *= side
    return total
