"""Tests of `idol-deploy convert`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch

from idol_deploy.weights.checkpoint import inspect_checkpoint, load_checkpoint
from idol_deploy.weights.half import with_half_weights
from idol_deploy.weights.layout import published_state, weights_hash
from idol_deploy.weights.reference import reference_state

if TYPE_CHECKING:
    from tests.conftest import Toy
    from tests.idol_deploy.conftest import Command


@pytest.mark.usefixtures("toy_preset")
def test_half_precision_halves_the_file(idol: Command, toy: Toy, toy_weights: Path, tmp_path: Path) -> None:
    sizes = {}
    for store in ("fp32", "fp16"):
        target = tmp_path / f"{store}.safetensors"
        done = idol("convert", "--weights", toy_weights, "--preset", "toy", "--store", store, "-o", target)
        assert (done.status, done.err) == (0, "")
        assert done.out.startswith(f"wrote {target} (")
        sizes[store] = target.stat().st_size
        expected = toy.model if store == "fp32" else with_half_weights(toy.model)
        state = published_state(load_checkpoint(target, toy.config))
        assert weights_hash(state) == weights_hash(published_state(expected))
        assert inspect_checkpoint(target).weights == weights_hash(published_state(expected))
    assert 0.45 < sizes["fp16"] / sizes["fp32"] < 0.6


def test_the_checkpoint_is_not_replaced(
    refused: Callable[..., str], toy_weights: Path, tmp_path: Path
) -> None:
    link = tmp_path / "link.safetensors"
    link.symlink_to(toy_weights)
    for target in (toy_weights, link):
        message = refused("convert", "--weights", toy_weights, "--preset", "edge_synth", "-o", target)
        assert f"{target} is an input as well; give the output another name" in message


@pytest.mark.parametrize(
    ("name", "fix"),
    [
        ("missing/a.safetensors", "create it first"),
        ("a.pth", "the name of a file of weights ends in .safetensors; rename it"),
    ],
)
def test_an_output_that_cannot_be_written_is_reported(
    refused: Callable[..., str], tmp_path: Path, name: str, fix: str
) -> None:
    options = "--weights", "not-looked-at.pth", "--preset", "edge_synth", "-o", tmp_path / name
    assert fix in refused("convert", *options)


@pytest.mark.usefixtures("toy_preset")
def test_a_network_of_own_classes(
    idol: Command, refused: Callable[..., str], toy: Toy, tmp_path: Path
) -> None:
    config = replace(toy.config, classes=("cat", "dog", "owl", "eel", "ant"))
    weights, target, names = tmp_path / "own.pth", tmp_path / "own.safetensors", tmp_path / "names.txt"
    torch.save({"model": reference_state(config)}, weights)
    command = "convert", "--weights", weights, "--preset", "toy", "-o", target
    assert f"has 5 classes, {toy.config.name} has" in refused(*command)
    names.write_text("cat\ndog\n")
    assert "has 5 classes, " in refused(*command, "--classes", names)
    names.write_text("\n".join(config.classes))
    assert idol(*command, "--classes", names).status == 0
    assert inspect_checkpoint(target).metadata["classes"] == '["cat", "dog", "owl", "eel", "ant"]'
