"""Patches of nodes compared with torch's windows."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from onnx import helper

from idol_export.precision.patches import Patches

RNG = np.random.default_rng(0)
VALUES = RNG.normal(size=(1, 3, 9, 11)).astype(np.float32)


@pytest.mark.parametrize(
    "attributes",
    [
        {},
        {"strides": [2, 1]},
        {"dilations": [2, 3], "pads": [1, 0, 2, 3]},
        {"strides": [3, 2], "pads": [1] * 4},
    ],
)
def test_windows_are_those_of_a_convolution(attributes: dict[str, list[int]]) -> None:
    patches = Patches.of(helper.make_node("Conv", ["x", "w"], ["y"], **attributes), (5, 3, 2, 3))
    assert patches is not None
    assert patches.value == "x"
    top, left, bottom, right = attributes.get("pads", [0] * 4)
    columns = torch.nn.functional.unfold(
        torch.nn.functional.pad(torch.from_numpy(VALUES), (left, right, top, bottom)),
        (2, 3),
        dilation=attributes.get("dilations", 1),
        stride=attributes.get("strides", 1),
    )
    expected = columns[0].T.numpy()
    found = patches.sample(VALUES, 10**6, RNG)
    assert sorted(map(tuple, found)) == sorted(map(tuple, expected))


def test_rows_are_drawn_once_each() -> None:
    patches = Patches.of(helper.make_node("MatMul", ["x", "w"], ["y"]), (11, 4))
    assert patches == Patches("x")
    found = patches.sample(VALUES, 10, RNG)
    assert found.shape == (10, 11)
    rows = set(map(tuple, found))
    assert len(rows) == 10
    assert rows < set(map(tuple, VALUES.reshape(-1, 11)))


def test_groups_of_channels_have_no_common_rows() -> None:
    assert Patches.of(helper.make_node("Conv", ["x", "w"], ["y"], group=3), (3, 1, 3, 3)) is None
