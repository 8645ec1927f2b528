import pytest
import torch

from idol_deploy.config import preset
from idol_deploy.model import deform_op
from idol_deploy.settings import TrainSettings, override_settings
from idol_deploy.train import graph as graph_module
from idol_deploy.train.graph import build_graph, prepare_graph, recompute_layers
from idol_plugins.errors import PluginError


def test_seed_decides_the_weights(settings: TrainSettings) -> None:
    first, again, other = (
        build_graph(override_settings(settings, [f"run.seed={seed}"]), 0, None, print).state_dict()
        for seed in (1, 1, 2)
    )
    assert all(torch.equal(tensor, again[name]) for name, tensor in first.items())
    assert any(not torch.equal(tensor, other[name]) for name, tensor in first.items())


def test_operator_that_is_not_built_is_told_or_insisted_on(
    settings: TrainSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (deform_op, graph_module):
        monkeypatch.setattr(module, "operator_problem", lambda device: "it is not built; build it")
    graph, told = build_graph(settings, 0, None, print), []
    prepare_graph(graph, settings, told.append)
    assert told == ["deformable attention: torch alone (it is not built; build it)"]
    with pytest.raises(PluginError, match="it is not built; build it"):
        prepare_graph(graph, override_settings(settings, ["run.operator=always"]), told.append)


def test_recomputed_layers_keep_their_names(settings: TrainSettings) -> None:
    graph = build_graph(settings, 0, None, print)
    names = list(graph.state_dict())
    recompute_layers(graph.model)
    wrapped = [name for name, module in graph.named_modules() if "forward" in module.__dict__]
    # Five Swin blocks, two encoder and three decoder layers.
    assert len(wrapped) == 5 + 2 + 3
    assert list(graph.state_dict()) == names


def test_a_fresh_edge_network_says_what_it_lacks_and_recomputes_its_blocks() -> None:
    told: list[str] = []
    graph = build_graph(TrainSettings(preset("edge_ytvis19")), 0, None, told.append)
    assert [line.partition(";")[0] for line in told] == [
        "weights from nothing",
        "the backbone's first stages are frozen as they were drawn",
    ]
    recompute_layers(graph.model)
    wrapped = [name for name, module in graph.named_modules() if "forward" in module.__dict__]
    # All blocks but the frozen stem's, three encoder and three decoder layers.
    assert len(wrapped) == 16 + 3 + 3
