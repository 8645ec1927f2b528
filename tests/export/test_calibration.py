"""Ranges, means and covariances of activations, against numpy."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper

from idol_export.calibration import observe
from idol_export.patches import Patches
from idol_runtime.errors import ConfigError

RNG = np.random.default_rng(0)
FRAMES = RNG.integers(0, 256, (3, 8, 8, 3), dtype=np.uint8)


def _graph() -> bytes:
    nodes = [
        helper.make_node("Cast", ["image"], ["x"], to=TensorProto.FLOAT),
        helper.make_node("Neg", ["x"], ["minus"]),
    ]
    image = helper.make_tensor_value_info("image", TensorProto.UINT8, [1, 8, 8, 3])
    minus = helper.make_tensor_value_info("minus", TensorProto.FLOAT, [1, 8, 8, 3])
    graph = helper.make_graph(nodes, "g", [image], [minus])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    data: bytes = model.SerializeToString()
    return data


def test_ranges_span_what_is_seen_where_nothing_is_rare() -> None:
    found = observe(_graph(), {"x": -1, "minus": -1}, FRAMES)
    assert found["x"].low == 0.0
    assert found["x"].high == pytest.approx(FRAMES.max(), rel=0.03)
    assert found["minus"].low == -found["x"].high
    both = observe(_graph(), {"x": -1}, FRAMES, symmetric=True)["x"]
    assert both.low == -both.high


def test_means_are_of_channels_over_all_frames() -> None:
    found = observe(_graph(), {"x": -1, "minus": 1}, FRAMES)
    np.testing.assert_allclose(found["x"].mean, FRAMES.mean(axis=(0, 1, 2)), rtol=1e-5)
    np.testing.assert_allclose(found["minus"].mean, -FRAMES.mean(axis=(0, 2, 3)), rtol=1e-5)


def test_covariances_are_of_what_is_read_together() -> None:
    """Of all rows where they are few: of values, and of windows of 2x2 of two frames."""
    rows, windows = Patches("x"), Patches("minus", (2, 2), strides=(2, 2))
    found = observe(_graph(), {"x": -1, "minus": 1}, FRAMES[:2], patches=[rows, windows])
    assert list(found["x"].covariances) == [rows]
    pixels = FRAMES[:2].reshape(-1, 3).T
    np.testing.assert_allclose(found["x"].covariances[rows], np.cov(pixels, bias=True), rtol=1e-3, atol=0.5)
    # The "channels" are 8 rows of an image, its "places" columns and colours; 4 x 1 windows do not overlap.
    cut = FRAMES[:2, :, :, :2].reshape(2, 8, 4, 2, 1, 2).transpose(0, 2, 4, 1, 3, 5).reshape(8, -1).T
    np.testing.assert_allclose(
        found["minus"].covariances[windows], np.cov(cut.astype(float), bias=True), rtol=1e-3, atol=1.0
    )


def test_without_frames_there_is_nothing_to_calibrate_on() -> None:
    with pytest.raises(ConfigError, match="--calibrate"):
        observe(_graph(), {"x": -1}, [])
