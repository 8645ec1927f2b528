"""Equality of the adapter's and the network's outputs."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from idol_deploy.backend import TorchBackend
from idol_export.graph.adapter import STAGES, ExportGraph
from idol_runtime.bundle.bundle import OUTPUT_NAMES
from idol_runtime.preprocess import normalise

if TYPE_CHECKING:
    from tests.conftest import Toy

SIZES = {"padded": (72, 104), "not padded": (64, 96)}


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
@torch.inference_mode()
def test_the_graph_computes_what_the_network_does(
    toy: Toy, size: tuple[int, int], relative_error: Callable[..., float]
) -> None:
    image = toy.video(1, size=size)[0]
    padded = torch.from_numpy(normalise(image, toy.config.preprocessing))[None]
    padding = torch.ones(1, *padded.shape[2:], dtype=torch.bool)
    padding[:, : size[0], : size[1]] = False
    expected = toy.model(padded, padding)
    graph = ExportGraph(toy.model, size)
    assert (graph.geometry.padding is None) == (size == SIZES["not padded"])
    found = graph.run(torch.from_numpy(image)[None])
    assert list(found) == [*STAGES, *OUTPUT_NAMES]
    for name in OUTPUT_NAMES:
        wanted = getattr(expected, name)
        if name == "mask_reference":
            wanted = wanted * torch.tensor([size[1], size[0]])
        assert relative_error(found[name], wanted) < 1e-5, name
    assert relative_error(found["preprocess"], padded) < 1e-6


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
def test_the_graph_computes_what_the_torch_backend_does(
    toy: Toy, size: tuple[int, int], relative_error: Callable[..., float]
) -> None:
    image = toy.video(1, size=size)
    expected = TorchBackend(toy.model).infer(image)[0]
    with torch.inference_mode():
        found = ExportGraph(toy.model, size).run(torch.from_numpy(image))
    for name in OUTPUT_NAMES:
        assert relative_error(found[name][0], getattr(expected, name)) < 1e-5, name


@torch.inference_mode()
def test_two_frames_share_the_geometry_of_one(toy: Toy, relative_error: Callable[..., float]) -> None:
    images = torch.from_numpy(toy.video(2))
    graph = ExportGraph(toy.model, toy.size)
    assert len(graph.geometry.position) == 1
    together = graph.run(images)
    for i in range(2):
        alone = graph.run(images[i : i + 1])
        for name in (*STAGES, *OUTPUT_NAMES):
            assert relative_error(together[name][i], alone[name][0]) < 1e-5, name
    assert relative_error(together["logits"][0], together["logits"][1]) > 1e-4, "two frames, not one twice"


@torch.inference_mode()
def test_the_graph_returns_its_outputs_in_their_order(toy: Toy) -> None:
    image = torch.from_numpy(toy.video(1))
    graph = ExportGraph(toy.model, toy.size)
    for ours, expected in zip(graph(image), graph.run(image).values(), strict=True):
        assert torch.equal(ours, expected)


def test_the_graph_does_not_touch_the_network(toy: Toy) -> None:
    before = {name: tensor.clone() for name, tensor in toy.model.state_dict().items()}
    graph = ExportGraph(toy.model, toy.size)
    assert not graph.model.training
    after = toy.model.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], before[name]) for name in before)


def test_all_weights_of_the_graph_are_the_network_s(toy: Toy) -> None:
    names = {name for name, _ in ExportGraph(toy.model, toy.size).named_parameters()}
    assert names == {f"model.{name}" for name, _ in toy.model.named_parameters()}


def test_the_pixels_that_normalisation_adds_are_nothing(toy: Toy) -> None:
    with torch.inference_mode():
        x = ExportGraph(toy.model, toy.size).run(torch.from_numpy(toy.video(1)))["preprocess"].numpy()
    assert x.shape == (1, 3, 96, 128)
    assert not x[:, :, 72:].any()
    assert not x[:, :, :, 104:].any()
    assert np.abs(x[:, :, :72, :104]).min() > 0
