"""Ranges, means and covariances of activations, against numpy."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper

from idol_export.precision.calibration import observe
from idol_export.precision.patches import Patches
from idol_runtime.errors import ConfigError

RNG = np.random.default_rng(0)
FRAMES = RNG.integers(0, 256, (3, 8, 8, 3), dtype=np.uint8)


def _graph(shape: tuple[int, ...] = (8, 8, 3), scale: float = 1.0) -> bytes:
    nodes = [
        helper.make_node("Cast", ["image"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["float", "scale"], ["x"]),
        helper.make_node("Neg", ["x"], ["minus"]),
    ]
    image = helper.make_tensor_value_info("image", TensorProto.UINT8, [1, *shape])
    minus = helper.make_tensor_value_info("minus", TensorProto.FLOAT, [1, *shape])
    tensors = [helper.make_tensor("scale", TensorProto.FLOAT, [], [scale])]
    graph = helper.make_graph(nodes, "g", [image], [minus], tensors)
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
    """With few rows, the covariance covers all of them: values, and windows of 2x2 of two frames."""
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


def test_a_rare_channel_is_seen_whatever_their_number() -> None:
    """Channels are interleaved; every 16th value belongs to one channel."""
    frames = np.zeros((2, 256, 512, 3), np.uint8)
    frames[..., 2] = 200
    wide = Patches("x")
    found = observe(_graph(frames.shape[1:]), {"x": -1}, frames, patches=[wide])["x"]
    assert found.high > 190
    odd = np.zeros((1, 256, 512, 3), np.uint8)
    odd.reshape(-1)[5::24] = (
        200  # a 24th of all values; sampling every 24th value from the first would miss them
    )
    assert observe(_graph(odd.shape[1:]), {"x": -1}, odd)["x"].high > 190


def test_covariances_stand_beside_means_that_are_far_greater() -> None:
    """The smallest variance is a millionth of the squared mean, and positive."""
    frames = RNG.integers(254, 256, (64, 16, 16, 3), dtype=np.uint8)
    rows = Patches("x")
    found = observe(_graph((16, 16, 3), 1000.0), {"x": -1}, frames, patches=[rows])["x"].covariances[rows]
    exact = 1e6 * np.cov(frames.reshape(-1, 3).T, bias=True)
    np.testing.assert_allclose(found, exact, rtol=1e-2, atol=1e-2 * exact.max())
    assert np.linalg.eigvalsh(found.astype(np.float64)).min() > 0
