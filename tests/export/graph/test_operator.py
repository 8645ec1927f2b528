"""The fused attention in exported graphs: nodes, shapes, and outputs equal to PyTorch."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from idol_deploy.config import ModelConfig, SwinConfig, preset

onnx = pytest.importorskip("onnx", reason="export needs onnx")
torch = pytest.importorskip("torch", reason="export needs torch")

from idol_deploy.model.idol import Idol  # noqa: E402 - imported after torch
from idol_export.graph.adapter import STAGES, ExportGraph  # noqa: E402
from idol_export.graph.operator import with_fused_attention  # noqa: E402
from idol_export.graph.tracing import probe_to_onnx, shipped  # noqa: E402
from idol_export.verify.parity import relative_error, torch_stages  # noqa: E402
from idol_plugins.ort import DOMAIN, OPERATOR  # noqa: E402

SIZE = (70, 90)  # padded in both directions


@pytest.fixture(scope="module")
def model() -> Idol:
    backbone = SwinConfig(embed_dim=8, depths=(1, 1, 1, 1), heads=(1, 1, 2, 2), window=4)
    network = ModelConfig(
        backbone, hidden_dim=32, queries=7, heads=2, ffn_dim=16, encoder_layers=2, decoder_layers=2
    )
    torch.manual_seed(0)
    made = Idol(replace(preset("ytvis19_r50"), name="tiny", model=network, classes=("cat", "dog"))).eval()
    for name, parameter in made.named_parameters():
        if "sampling_offsets.weight" in name or "attention_weights.weight" in name:
            torch.nn.init.normal_(parameter, std=0.2)  # zero in a fresh network
    return made


@pytest.fixture(scope="module")
def probe(model: Idol) -> bytes:
    return probe_to_onnx(ExportGraph(with_fused_attention(model), SIZE), dynamic_batch=True)


def test_each_attention_is_one_node_of_known_shape(probe: bytes) -> None:
    graph = onnx.load_model_from_string(shipped(probe)).graph
    nodes = [node for node in graph.node if node.domain == DOMAIN]
    assert [node.op_type for node in nodes] == [OPERATOR] * 4
    assert not [node for node in graph.node if node.op_type == "GridSample"]
    shapes = {
        info.name: [d.dim_value for d in info.type.tensor_type.shape.dim][1:] for info in graph.value_info
    }
    assert [shapes[node.output[0]] for node in nodes] == [[144 + 36 + 9 + 4, 32]] * 2 + [[7, 32]] * 2


def test_the_network_itself_is_left_alone(model: Idol) -> None:
    before = {name: id(tensor) for name, tensor in model.state_dict(keep_vars=True).items()}
    fused = with_fused_attention(model)
    assert {name: id(tensor) for name, tensor in model.state_dict(keep_vars=True).items()} == before
    assert fused.neck is not model.neck
    assert next(fused.neck.parameters()) is next(model.neck.parameters())


def test_answers_as_pytorch_does(probe: bytes, model: Idol, ort_operator: Path) -> None:
    pytest.importorskip("onnxruntime", reason="the graph runs in ONNX Runtime")
    from idol_runtime.backends.onnxruntime import open_session, run_session

    images = np.random.default_rng(0).integers(0, 256, (2, *SIZE, 3), np.uint8)
    found = run_session(open_session(probe, libraries=[ort_operator]), STAGES, images)
    for index, image in enumerate(images):
        expected = torch_stages(model, image)
        for stage in STAGES:
            # Tolerances: 1e-5 for a single fp32 module, 1e-4 after the transformer.
            assert relative_error(found[stage][index], expected[stage]) <= 1e-4, stage
