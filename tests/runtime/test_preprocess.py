"""Tests of the resize against the published arrays, and of the placement of frames."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from idol_runtime import preprocess
from idol_runtime.config import Preprocessing
from idol_runtime.preprocess import Placement, letterbox, normalise, resize


@pytest.mark.parametrize(("short", "longest"), [(480, 1333), (720, 1333), (360, 1333), (480, 700)])
def test_resize_equals_the_published_bit_for_bit(reference: Path, short: int, longest: int) -> None:
    unit = np.load(reference / "unit_resize.npz")
    size = Preprocessing(short_side=short, max_side=longest).network_size(360, 640)
    resized = resize(source_frame(), size)
    assert resized.shape == tuple(unit[f"r{short}_{longest}_shape"])
    assert np.array_equal(resized[::6, ::6], unit[f"r{short}_{longest}_slice"])


@pytest.mark.parametrize("size", [(360, 640), (240, 427), (200, 700), (400, 333)])
def test_columns_are_resized_before_rows_whatever_takes_longer(size: tuple[int, int]) -> None:
    """The reference is in floating point, rounded to uint8 after each pass."""
    frame = np.random.default_rng(0).integers(0, 256, (375, 500, 3), dtype=np.uint8)
    expected = frame.astype(np.float64)
    for axis, after in ((1, size[1]), (0, size[0])):
        expected = np.moveaxis(
            np.tensordot(_triangle(frame.shape[axis], after), expected, (1, axis)), 0, axis
        )
        expected = np.floor(expected + 0.5)
    # Exact halves round to either side, because Pillow's weights have 22 bits.
    assert np.mean(resize(frame, size) != expected) < 0.02


@pytest.mark.usefixtures("homeless")
def test_a_user_without_a_home_resizes_as_well() -> None:
    """The compiled resize is searched in the user's cache, which does not exist."""
    preprocess._library.cache_clear()
    frame = np.arange(72, dtype=np.uint8).reshape(4, 6, 3)
    try:
        assert resize(frame, (2, 3)).shape == (2, 3, 3)
    finally:
        preprocess._library.cache_clear()


def _triangle(before: int, after: int) -> np.ndarray:
    """Return the weights [after, before] of the source pixels."""
    scale = before / after
    centre = (np.arange(after)[:, None] + 0.5) * scale
    weights = np.maximum(1 - np.abs(np.arange(before) + 0.5 - centre) / max(scale, 1), 0)
    return weights / weights.sum(axis=1, keepdims=True)


def source_frame() -> np.ndarray:
    """Return make_video(1, 360, 640, 7)[0] of the reference arrays."""
    from idol_deploy.weights.reference import make_video

    return np.ascontiguousarray(make_video(1, 360, 640, 7)[0].transpose(1, 2, 0))


@given(st.integers(1, 3000), st.integers(1, 3000))
def test_network_size_keeps_both_limits(height: int, width: int) -> None:
    preprocessing = Preprocessing(short_side=480, max_side=1333)
    size = preprocessing.network_size(height, width)
    assert max(size) <= 1333
    assert min(size) == 480 or max(size) == 1333
    padded = preprocessing.padded_size(*size)
    assert all(p % 32 == 0 and 0 <= p - s < 32 for p, s in zip(padded, size, strict=True))


def test_normalise_pads_with_zeros_after_normalising() -> None:
    image = np.full((3, 5, 3), 255, np.uint8)
    out = normalise(image, Preprocessing())
    assert out.shape == (3, 32, 32)
    assert out[0, :3, :5] == pytest.approx((255 - 123.675) / 58.395)
    assert not out[:, 3:].any()
    assert not out[:, :, 5:].any()


@given(st.integers(1, 200), st.integers(1, 200))
def test_letterbox_keeps_the_shape_and_maps_boxes_back(height: int, width: int) -> None:
    frame = np.zeros((height, width, 3), np.uint8)
    canvas, placement = letterbox(frame, (96, 160), (124.0, 116.0, 104.0))
    con_h, con_w = placement.content
    assert canvas.shape == (96, 160, 3)
    assert con_h == 96 or con_w == 160
    assert not canvas[:con_h, :con_w].any()
    assert (canvas[con_h:] == (124, 116, 104)).all()
    whole = np.float32([[con_w / 320, con_h / 192, con_w / 160, con_h / 96]])
    assert placement.boxes_to_frame(whole)[0] == pytest.approx([0, 0, width, height], rel=1e-4, abs=1e-3)


def test_boxes_are_clipped_to_the_frame() -> None:
    placement = Placement(frame=(100, 200), network=(50, 100), content=(50, 100))
    boxes = placement.boxes_to_frame(np.float32([[0.5, 0.5, 2.0, 0.5]]))
    assert boxes[0] == pytest.approx([0, 25, 200, 75])
