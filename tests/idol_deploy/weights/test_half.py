"""Weights of fp16: rounded, unchanged and refused tensors."""

from __future__ import annotations

from copy import deepcopy
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from idol_deploy.weights.half import with_half_weights
from idol_runtime.errors import CheckpointError

if TYPE_CHECKING:
    from idol_deploy.model.idol import Idol


def test_matrices_are_rounded_and_vectors_are_not(tiny: Idol) -> None:
    before = {name: tensor.clone() for name, tensor in tiny.state_dict().items()}
    rounded = with_half_weights(tiny).state_dict()
    changed = 0
    for name, tensor in before.items():
        array = tensor.numpy()
        matrix = array.ndim > 1 and array.dtype == np.float32
        expected = array.astype(np.float16).astype(np.float32) if matrix else array
        np.testing.assert_array_equal(rounded[name].numpy(), expected, err_msg=name)
        changed += bool((expected != array).any())
    assert changed > 10
    assert all(torch.equal(tiny.state_dict()[name], tensor) for name, tensor in before.items()), "a copy"


def test_rounding_again_changes_nothing(tiny: Idol) -> None:
    once = with_half_weights(tiny)
    again = with_half_weights(once).state_dict()
    assert all(torch.equal(tensor, again[name]) for name, tensor in once.state_dict().items())


@pytest.mark.parametrize(("scale", "why"), [(1e7, "above fp16's 65504"), (1e-9, "too small for fp16")])
def test_a_weight_that_fp16_cannot_hold_is_named(tiny: Idol, scale: float, why: str) -> None:
    model = deepcopy(tiny)
    with torch.no_grad():
        model.state_dict()["heads.controller.layers.0.weight"].mul_(scale)
    with pytest.raises(CheckpointError, match=rf"detr\.controller\.layers\.0\.weight .*{why}.*fp32"):
        with_half_weights(model)
