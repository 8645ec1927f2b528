from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from idol_deploy.config import preset
from idol_deploy.model import deform_op
from idol_deploy.model.idol import Idol
from idol_deploy.objective.batch import Pair, collate
from idol_deploy.objective.config import LossConfig
from idol_deploy.objective.criterion import Criterion
from idol_deploy.settings import TrainSettings, override_settings
from idol_deploy.train import graph as graph_module
from idol_deploy.train.graph import TrainingGraph, build_graph, prepare_graph, recompute_layers
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
    graph, messages = build_graph(settings, 0, None, print), []
    prepare_graph(graph, settings, messages.append)
    assert messages == ["deformable attention: plain PyTorch (it is not built; build it)"]
    with pytest.raises(PluginError, match="it is not built; build it"):
        prepare_graph(graph, override_settings(settings, ["run.operator=always"]), messages.append)


def test_recomputed_layers_keep_their_names(settings: TrainSettings) -> None:
    graph = build_graph(settings, 0, None, print)
    names = list(graph.state_dict())
    recompute_layers(graph.model)
    wrapped = [name for name, module in graph.named_modules() if "forward" in module.__dict__]
    # Five Swin blocks, two encoder and three decoder layers.
    assert len(wrapped) == 5 + 2 + 3
    assert list(graph.state_dict()) == names


def test_a_fresh_edge_network_says_what_it_lacks_and_recomputes_its_blocks() -> None:
    messages: list[str] = []
    graph = build_graph(TrainSettings(preset("edge_ytvis19")), 0, None, messages.append)
    assert [line.partition(";")[0] for line in messages] == [
        "training from random weights",
        "the backbone's frozen stages have random weights",
    ]
    recompute_layers(graph.model)
    wrapped = [name for name, module in graph.named_modules() if "forward" in module.__dict__]
    # All blocks but the frozen stem's, three encoder and three decoder layers.
    assert len(wrapped) == 16 + 3 + 3


def test_steps_lower_the_loss_of_one_batch(tiny: Idol, make_pair: Callable[..., Pair]) -> None:
    torch.manual_seed(0)
    batch = collate([make_pair(2), make_pair(1, 1, (50, 90))], tiny.config.preprocessing)
    graph = TrainingGraph(tiny.train(), Criterion(LossConfig(), 32))
    optimiser = torch.optim.AdamW(graph.parameters(), lr=2e-3)
    totals = []
    for _ in range(11):
        optimiser.zero_grad()
        losses = graph(batch)
        losses.total.backward()
        optimiser.step()
        totals.append(losses.total.item())
    assert sum(totals[-3:]) < 0.85 * sum(totals[:3])


def test_both_directions_teach_what_swapped_pairs_would(
    tiny: Idol, make_pair: Callable[..., Pair], relative_error: Callable[[Tensor, Tensor], float]
) -> None:
    """Losses and gradients equal those of each pair and its swapped copy, from half as many frames."""
    pairs = [make_pair(3), make_pair(2, 1, (50, 90))]
    pairs[0] = replace(
        pairs[0],
        on_key=torch.tensor([False, True, True]),
        on_reference=torch.tensor([True, True, False]),
    )
    preprocessing = tiny.config.preprocessing
    batches = (
        collate(pairs, preprocessing, both_directions=True),
        collate([either for pair in pairs for either in (pair, pair.swapped())], preprocessing),
    )
    assert [batch.both_directions for batch in batches] == [True, False]
    with torch.no_grad():
        for parameter in tiny.parameters():
            parameter += 0.1 * torch.randn_like(parameter)  # fresh boxes are the same on every frame
    graph = TrainingGraph(tiny, Criterion(LossConfig(), 32))
    found = []
    for batch in batches:
        torch.manual_seed(3)  # of the negatives that are drawn
        graph.zero_grad()
        losses = graph(batch)
        losses.total.backward()
        gradient = torch.cat([p.grad.flatten() for p in tiny.parameters() if p.grad is not None])
        found.append((torch.stack(list(losses.parts.values())), losses.matched, gradient))
    (ours, matched, gradient), (wanted, wanted_matched, wanted_gradient) = found
    assert torch.equal(matched, wanted_matched)
    torch.testing.assert_close(ours, wanted, rtol=1e-5, atol=1e-6)
    assert relative_error(gradient, wanted_gradient) < 1e-4  # sums in another order


@pytest.mark.gpu
def test_a_cuda_device_finds_the_same_losses_and_gradients(
    tiny: Idol, make_pair: Callable[..., Pair]
) -> None:
    batch = collate([make_pair(3), make_pair(0, 1, (50, 90))], tiny.config.preprocessing)
    graph = TrainingGraph(tiny, Criterion(LossConfig(masks_at_once=2), 32))
    graph.criterion.sampler = lambda negative, count: negative
    found = []
    for device in ("cpu", "cuda"):
        graph.to(device).zero_grad()
        losses = graph(batch.pin_memory().to(device, non_blocking=True))
        losses.total.backward()
        gradients = [parameter.grad.cpu() for parameter in tiny.parameters() if parameter.grad is not None]
        found.append((torch.stack(list(losses.parts.values())).detach().cpu(), gradients))
    # The float32 sums have another order. The gradient of a bias before a normalisation is rounding only.
    torch.testing.assert_close(found[1][0], found[0][0], rtol=1e-3, atol=1e-5)
    for ours, wanted in zip(found[1][1], found[0][1], strict=True):
        assert (ours - wanted).norm() <= 1e-2 * wanted.norm() + 1e-4
