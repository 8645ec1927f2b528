"""The attention cores in exported graphs: nodes, shapes, and outputs equal to PyTorch."""

import copy
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from idol_deploy.config import ModelConfig, SwinConfig, preset

onnx = pytest.importorskip("onnx", reason="export needs onnx")
torch = pytest.importorskip("torch", reason="export needs torch")

from idol_deploy.model.idol import Idol  # noqa: E402 - imported after torch
from idol_export.graph.adapter import STAGES, ExportGraph  # noqa: E402
from idol_export.graph.operator import CORES, fused_node, with_core  # noqa: E402
from idol_export.graph.tracing import probe_to_onnx, shipped  # noqa: E402
from idol_export.precision.editor import Editor  # noqa: E402
from idol_export.verify.parity import relative_error, torch_stages  # noqa: E402
from idol_plugins.ort import DOMAIN, OPERATOR  # noqa: E402
from idol_runtime.bundle.bundle import OUTPUT_NAMES  # noqa: E402

SIZE = (70, 90)  # padded in both directions


@pytest.fixture(scope="module")
def model() -> Idol:
    backbone = SwinConfig(embed_dim=8, depths=(1, 1, 1, 1), heads=(1, 1, 2, 2), window=4)
    network = ModelConfig(
        backbone, hidden_dim=32, queries=7, heads=2, ffn_dim=16, encoder_layers=1, decoder_layers=2
    )
    torch.manual_seed(0)
    made = Idol(replace(preset("ytvis19_r50"), name="tiny", model=network, classes=("cat", "dog"))).eval()
    for name, parameter in made.named_parameters():
        if "sampling_offsets.weight" in name or "attention_weights.weight" in name:
            torch.nn.init.normal_(parameter, std=0.2)  # zero in a fresh network
    return made


@pytest.fixture(scope="module")
def probes(model: Idol) -> dict[str, bytes]:
    return {
        name: probe_to_onnx(ExportGraph(with_core(model, core), SIZE), dynamic_batch=True)
        for name, core in CORES.items()
    }


def _shapes(graph: "onnx.GraphProto") -> dict[str, list[int]]:
    """Return the shape of every value, with 1 for a free batch."""
    values = (*graph.value_info, *graph.output)
    return {info.name: [d.dim_value or 1 for d in info.type.tensor_type.shape.dim] for info in values}


def test_each_attention_is_one_node_of_known_shape(probes: dict[str, bytes]) -> None:
    graph = onnx.load_model_from_string(shipped(probes["plugin"])).graph
    nodes = [node for node in graph.node if node.domain == DOMAIN]
    assert [node.op_type for node in nodes] == [OPERATOR] * 3
    shapes = _shapes(graph)
    assert [shapes[node.output[0]][1:] for node in nodes] == [[144 + 36 + 9 + 4, 32]] + [[7, 32]] * 2


@pytest.mark.parametrize("name", CORES)
def test_operators_that_engines_compute_wrongly_or_slowly_do_not_ship(
    probes: dict[str, bytes], name: str
) -> None:
    """Neither GridSample nor Resize, no Where beyond the size of the coordinates, and no Clip before an index."""
    editor = Editor(shipped(probes[name]))
    kinds = {node.op_type for node in editor.graph.node}
    assert not {"GridSample", "Resize", "GatherElements", "GatherND"} & kinds
    shapes = _shapes(editor.graph)
    tokens, coordinates = 144 + 36 + 9 + 4, 2 * 2 * 4 * 4  # two heads, four levels, four points
    where = [shapes[node.output[0]] for node in editor.graph.node if node.op_type == "Where"]
    assert max(map(math.prod, where)) <= tokens * coordinates
    gathers = [
        node for node in editor.graph.node if node.op_type == "Gather" and node.input[1] in editor.producers
    ]
    assert len(gathers) == (0 if name == "plugin" else 3)
    for gather in gathers:
        assert shapes[gather.output[0]][-2:] == [4 * 4 * 4, 16], "on axis 0, from rows"
        through = editor.makers_of(gather.input[1], lambda node: node.op_type != "Floor")
        nodes = [node for node in editor.graph.node if node.name in through]
        assert not {"Clip", "Slice"} & {node.op_type for node in nodes}
        casts = [node.attribute[0].i for node in nodes if node.op_type == "Cast"]
        assert set(casts) == {onnx.TensorProto.INT32}, "no cast of the index to int64"


def test_the_network_itself_is_left_alone(model: Idol) -> None:
    before = {name: id(tensor) for name, tensor in model.state_dict(keep_vars=True).items()}
    fused = with_core(model, fused_node)
    assert {name: id(tensor) for name, tensor in model.state_dict(keep_vars=True).items()} == before
    assert fused.neck is not model.neck
    assert next(fused.neck.parameters()) is next(model.neck.parameters())


@pytest.mark.parametrize("name", CORES)
def test_answers_as_pytorch_does(
    probes: dict[str, bytes], name: str, model: Idol, request: pytest.FixtureRequest
) -> None:
    libraries = [request.getfixturevalue("ort_operator")] if name == "plugin" else []
    _check_stages(probes[name], model, libraries, frames=2)


@pytest.mark.slow  # a second network to trace
def test_sides_that_are_not_doubled(model: Idol) -> None:
    """Maps of 9x12, 5x6 and 3x3 cells: the mask head repeats single rows."""
    preprocessing = replace(model.config.preprocessing, size_divisor=1)
    odd = copy.copy(model)
    odd.config = replace(model.config, preprocessing=preprocessing)
    probe = probe_to_onnx(ExportGraph(with_core(odd, CORES["portable"]), SIZE))
    assert "Resize" not in {node.op_type for node in onnx.load_model_from_string(probe).graph.node}
    _check_stages(probe, odd, [], frames=1)


def _check_stages(probe: bytes, model: Idol, libraries: list[Path], frames: int) -> None:
    pytest.importorskip("onnxruntime", reason="the graph runs in ONNX Runtime")
    from idol_runtime.backends.onnxruntime import open_session, run_session

    names = (*STAGES, *OUTPUT_NAMES)
    images = np.random.default_rng(0).integers(0, 256, (frames, *SIZE, 3), np.uint8)
    found = run_session(open_session(probe, libraries=libraries), names, images)
    for index, image in enumerate(images):
        expected = torch_stages(model, image)
        for name in names:
            assert relative_error(found[name][index], expected[name]) <= 1e-5, name
