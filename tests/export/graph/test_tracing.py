"""The exported file: standard operators, static shapes, six outputs, no paths of this machine."""

from __future__ import annotations

import getpass
import os
import platform
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest

from idol_export.graph import tracing as module
from idol_export.graph.adapter import STAGES, ExportGraph
from idol_export.graph.operator import CORES, with_core
from idol_export.graph.tracing import check_opset, describe_io, probe_to_onnx, shipped
from idol_runtime.backends.onnxruntime import open_session, run_session
from idol_runtime.bundle.bundle import OUTPUT_NAMES, TensorInfo
from idol_runtime.errors import ConfigError

if TYPE_CHECKING:
    from tests.conftest import Toy


def _values(model: onnx.ModelProto) -> dict[str, list[int | str]]:
    """Return the shape of every computed value."""
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
    found = {}
    for value in (*inferred.graph.input, *inferred.graph.value_info, *inferred.graph.output):
        dims = value.type.tensor_type.shape.dim
        found[value.name] = [d.dim_value if d.HasField("dim_value") else d.dim_param for d in dims]
    made = {name for node in model.graph.node for name in node.output if name}
    assert made <= found.keys(), "every value has a shape"
    return {name: found[name] for name in made}


@pytest.fixture(scope="module")
def graph(toy: Toy) -> onnx.ModelProto:
    return onnx.load_model_from_string(toy.graph)


def test_only_standard_operators(graph: onnx.ModelProto) -> None:
    assert {node.domain for node in graph.graph.node} <= {"", "ai.onnx"}
    assert [(opset.domain, opset.version) for opset in graph.opset_import] == [("", 18)]
    assert not graph.functions
    assert not any(attribute.g.node for node in graph.graph.node for attribute in node.attribute), (
        "no If, no Loop"
    )


def test_every_shape_is_static(graph: onnx.ModelProto) -> None:
    for name, shape in _values(graph).items():
        assert all(isinstance(size, int) for size in shape), f"{name} {shape}"


def test_what_ships_has_the_six_outputs_and_nothing_of_the_stages(toy: Toy, graph: onnx.ModelProto) -> None:
    probe = onnx.load_model_from_string(toy.probe)
    assert [value.name for value in graph.graph.input] == ["image"]
    assert [value.name for value in graph.graph.output] == list(OUTPUT_NAMES)
    assert [value.name for value in probe.graph.output] == [*STAGES, *OUTPUT_NAMES]
    assert len(graph.graph.node) <= len(probe.graph.node)
    used = {name for node in graph.graph.node for name in node.input}
    assert {tensor.name for tensor in graph.graph.initializer} <= used, "no weight that nothing uses"
    made = {name for node in graph.graph.node for name in node.output}
    feeding = used | set(OUTPUT_NAMES)
    dead = [node.name for node in graph.graph.node if not set(node.output) & feeding]
    assert not dead, "no node that leads nowhere"
    weights = {tensor.name for tensor in graph.graph.initializer}
    assert {value.name for value in graph.graph.value_info} <= made | weights | {"image"}


def test_bytes_are_cast_before_all_else(graph: onnx.ModelProto) -> None:
    """TensorRT accepts uint8 only for an input that is cast."""
    readers = [node.op_type for node in graph.graph.node if "image" in node.input]
    assert readers == ["Cast"]


def test_inputs_and_outputs_are_described(toy: Toy) -> None:
    inputs, outputs = describe_io(toy.graph)
    assert inputs == (TensorInfo("image", "uint8", (1, 72, 104, 3)),)
    queries, classes = toy.config.model.queries, len(toy.config.classes)
    shapes = {
        "logits": (1, queries, classes),
        "boxes": (1, queries, 4),
        "embeddings": (1, queries, 64),
        "mask_features": (1, 8, 12, 16),
        "mask_params": (1, queries, 169),
        "mask_reference": (1, queries, 2),
    }
    assert outputs == tuple(TensorInfo(name, "float32", shape) for name, shape in shapes.items())


@pytest.mark.parametrize("which", ["probe", "graph"])
def test_nothing_of_the_machine_is_left_in_the_file(toy: Toy, which: str) -> None:
    data: bytes = getattr(toy, which)
    model = onnx.load_model_from_string(data)
    assert (model.producer_name, model.producer_version, model.doc_string) == ("idol_deploy", "", "")
    held = [model, model.graph, *model.graph.node, *model.graph.value_info]
    held += [*model.graph.input, *model.graph.output, *model.graph.initializer]
    for item in held:
        assert not getattr(item, "doc_string", "")
        assert not item.metadata_props
    traces = ["site-packages", ".py", "Traceback", sys.prefix, os.getcwd(), str(Path.home())]
    traces += [platform.node(), getpass.getuser() if os.environ.get("USER") else "/home/"]
    for trace in traces:
        assert len(trace) < 4 or trace.encode() not in data, trace
    assert not re.search(rb"20[0-9]{2}-[01][0-9]-[0-3][0-9]", data), "no date"


def test_the_same_network_gives_the_same_bytes(toy: Toy) -> None:
    network = with_core(toy.model, CORES["portable"])
    assert probe_to_onnx(ExportGraph(network, toy.size)) == toy.probe
    assert shipped(toy.probe) == toy.graph


@pytest.mark.parametrize("opset", [11, 16, 17])
def test_an_old_opset_is_refused(toy: Toy, opset: int) -> None:
    with pytest.raises(ConfigError, match=f"opset {opset} is too old; use --opset 18 or newer"):
        probe_to_onnx(ExportGraph(toy.model, toy.size), opset=opset)


def test_an_opset_that_the_exporter_gets_wrong_is_refused() -> None:
    check_opset(module._NEWEST_OPSET)
    with pytest.raises(ConfigError, match=f"use --opset 18 to {module._NEWEST_OPSET}$"):
        check_opset(module._NEWEST_OPSET + 1)


@pytest.mark.slow
def test_the_newest_opset_is_exported(toy: Toy) -> None:
    graph = onnx.load_model_from_string(
        probe_to_onnx(ExportGraph(toy.model, toy.size), opset=module._NEWEST_OPSET)
    )
    assert [opset.version for opset in graph.opset_import] == [module._NEWEST_OPSET]


def test_a_network_beyond_two_gibibytes_is_refused(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_LIMIT", len(toy.graph))
    with pytest.raises(ConfigError, match="does not fit one ONNX file of 2 GiB; choose a smaller backbone"):
        shipped(toy.probe)


def test_three_frames_together_are_three_alone(
    toy: Toy,
    relative_error: Callable[..., float],
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    probe = probe_to_onnx(ExportGraph(toy.model, toy.size), dynamic_batch=True)
    chatter = [record.getMessage() for record in caplog.records if record.levelname != "DEBUG"]
    assert not chatter, "the exporter keeps it to itself"
    assert capfd.readouterr() == ("", "")
    graph = shipped(probe)
    inputs, outputs = describe_io(graph)
    assert all(tensor.shape[0] == -1 and min(tensor.shape[1:]) > 0 for tensor in (*inputs, *outputs))
    for name, shape in _values(onnx.load_model_from_string(graph)).items():
        # The batch and its multiples: windows and heads of all frames share one dimension.
        assert sum(not isinstance(size, int) for size in shape) <= 1, f"{name} {shape}"
    session, fixed = open_session(graph), open_session(toy.graph)
    frames = toy.video(3)
    together = run_session(session, OUTPUT_NAMES, frames)
    for i in range(3):
        for how in (session, fixed):
            alone = run_session(how, OUTPUT_NAMES, frames[i : i + 1])
            for name in OUTPUT_NAMES:
                assert relative_error(together[name][i], alone[name][0]) < 1e-5, name
    assert relative_error(together["logits"][0], together["logits"][2]) > 1e-4, "not one frame three times"
    assert np.isfinite(together["mask_features"]).all()
