"""PyTorch's rows of the benchmark: the bundle's weights and plain attention, or an error."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from idol_deploy.bench import TorchRow, torch_rows
from idol_deploy.model import deform_op
from idol_deploy.model.deform_attn import deformable_attention
from idol_deploy.weights.checkpoint import save_checkpoint
from idol_deploy.weights.reference import reference_model
from idol_runtime.bundle.bundle import Bundle
from idol_runtime.errors import CheckpointError, PluginError
from idol_runtime.pipeline import compare_golden

if TYPE_CHECKING:
    from tests.conftest import Toy


@pytest.fixture
def weights(toy: Toy, tmp_path: Path) -> Path:
    path = tmp_path / "toy.safetensors"
    save_checkpoint(path, toy.model, toy.config)
    return path


def test_eager_answers_the_golden_frame(toy: Toy, weights: Path) -> None:
    (row,) = torch_rows(TorchRow(toy.path, weights, toy.config))
    assert row.required
    backend = row.open()
    with Bundle.open(toy.path) as bundle:
        assert max(stage.error for stage in compare_golden(backend, bundle.golden_frame())) < 1e-5
        # The golden frame may have another size.
        assert backend.network_size == bundle.manifest.network_size


def test_eager_has_the_plain_attention(toy: Toy, weights: Path) -> None:
    backend = TorchRow(toy.path, weights, toy.config).open()
    cores = {layer.core for layer in backend._model.modules() if hasattr(layer, "core")}  # type: ignore[attr-defined]
    assert cores == {deformable_attention}


def test_other_weights_are_refused(toy: Toy, tmp_path: Path) -> None:
    model = reference_model(toy.config)
    next(iter(model.parameters())).data.flatten()[0] += 1
    path = tmp_path / "other.safetensors"
    save_checkpoint(path, model, toy.config)
    with pytest.raises(CheckpointError, match="does not hold the weights"):
        TorchRow(toy.path, path, toy.config).open()


def test_compiled_is_a_row_of_its_own(toy: Toy, weights: Path) -> None:
    names = [row.name for row in torch_rows(TorchRow(toy.path, weights, toy.config, compiled=True))]
    assert names == ["pytorch, eager", "pytorch, compile"]
    assert np.unique(names).size == 2


def test_rows_of_a_gpu(toy: Toy, weights: Path) -> None:
    rows = torch_rows(TorchRow(toy.path, weights, toy.config, "cuda:1", compiled=True))
    fp32 = [
        "pytorch, eager",
        "pytorch, eager, operator",
        "pytorch, compile",
        "pytorch, compile, operator",
    ]
    assert [row.name for row in rows] == [*fp32, *(f"{name}, fp16" for name in fp32)]
    assert [row.required for row in rows] == [True, *[False] * 7]
    assert [row.precision for row in rows] == [*["fp32"] * 4, *["fp16"] * 4]
    assert [row.tolerances is None for row in rows] == [*[True] * 4, *[False] * 4]


def test_half_runs_in_fp16_within_its_tolerance(toy: Toy, weights: Path) -> None:
    """fp16 differs from fp32 by more than rounding of fp32, and by less than a tenth."""
    tolerances = torch_rows(TorchRow(toy.path, weights, toy.config, "cuda"))[-1].tolerances
    with Bundle.open(toy.path) as bundle:
        stages = compare_golden(
            TorchRow(toy.path, weights, toy.config, half=True).open(), bundle.golden_frame(), tolerances
        )
    assert all(stage.passed for stage in stages)
    assert max(stage.error for stage in stages) > 1e-4


def test_the_operator_is_used_or_its_absence_is_told(
    toy: Toy, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = TorchRow(toy.path, weights, toy.config, operator=True)
    monkeypatch.setattr(deform_op, "operator_problem", lambda device: "it is not built; build it")
    with pytest.raises(PluginError, match="it is not built; build it"):
        row.open()
    monkeypatch.setattr(deform_op, "operator_problem", lambda device: None)
    backend = row.open()
    cores = {layer.core for layer in backend._model.modules() if hasattr(layer, "core")}  # type: ignore[attr-defined]
    assert cores == {deform_op.deform_attn}


@pytest.mark.slow
def test_all_of_the_network_is_compiled_in_one_graph(
    toy: Toy, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch
    import torch._inductor.config

    graphs = []

    def capture(graph: torch.fx.GraphModule, _: object) -> object:
        graphs.append(graph)
        return graph.forward

    compile_ = torch.compile
    monkeypatch.setattr(torch, "compile", lambda model, **how: compile_(model, backend=capture, **how))
    # config.patch restores the setting; monkeypatch would delete it.
    with torch._inductor.config.patch(freezing=False), Bundle.open(toy.path) as bundle:
        backend = TorchRow(toy.path, weights, toy.config, compiled=True).open()
        assert max(stage.error for stage in compare_golden(backend, bundle.golden_frame())) < 1e-5
    (graph,) = graphs
    convolutions = [node for node in graph.graph.nodes if "conv" in str(node.target)]
    assert len(convolutions) > 5, "the backbone is in it"
