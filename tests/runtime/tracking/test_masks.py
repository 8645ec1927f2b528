"""Mask decoding, compared with published arrays; upsampling, compared with its definition."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from idol_runtime.preprocess import Placement
from idol_runtime.tracking.crops import paste_masks
from idol_runtime.tracking.masks import decode_masks, mask_iou, upsample_masks


def test_decode_equals_the_published_head(reference: Path) -> None:
    unit = np.load(reference / "unit_mask_head.npz")
    start = 0
    for features, count in zip(unit["mask_feats"], unit["num_insts"], strict=True):
        part = slice(start, start + count)
        expected = unit["mask_logits"][0, part]
        logits = decode_masks(features, unit["params"][0, part], unit["reference_points_px"][0, part])
        assert np.linalg.norm(logits - expected) <= 1e-5 * np.linalg.norm(expected)
        start += count


def test_decode_of_nothing_is_nothing() -> None:
    empty = np.zeros((0, 169), np.float32), np.zeros((0, 2), np.float32)
    assert decode_masks(np.zeros((8, 3, 5), np.float32), *empty).shape == (0, 6, 10)


def test_mask_iou_equals_the_published(reference: Path) -> None:
    unit = np.load(reference / "unit_mask_iou.npz")
    iou = mask_iou(unit["a"].reshape(6, -1) > 0)
    assert np.array_equal(iou, unit["iou"])
    empty_and_one = np.zeros((3, 768), np.bool_)
    empty_and_one[2] = unit["a"][0].reshape(-1) > 0
    assert mask_iou(empty_and_one)[0, 1] == unit["empty_vs_empty"]


@pytest.mark.parametrize(
    ("pixels", "above"), [(16, True), (31, True), (32, False), (64, False), (4096, False)]
)
def test_an_iou_of_one_half_falls_as_published(pixels: int, above: bool) -> None:
    masks = np.zeros((2, 3 * pixels), np.bool_)
    masks[0, : 2 * pixels] = masks[1, :pixels] = True
    assert (mask_iou(masks)[0, 1] > np.float32(0.5)) == above


def slow_upsample(logit: np.ndarray, placement: Placement) -> np.ndarray:
    """Upsample by the definition: bilinear x4 at every network pixel, crop, nearest resize, threshold."""
    position = [np.maximum((np.arange(4 * size) + 0.5) / 4 - 0.5, 0) for size in logit.shape]
    rows = np.stack([np.interp(position[0], np.arange(logit.shape[0]), column) for column in logit.T], axis=1)
    full = np.stack([np.interp(position[1], np.arange(logit.shape[1]), row) for row in rows])
    content, frame = placement.content, placement.frame
    pick = [
        np.minimum(
            np.floor(np.arange(out, dtype=np.float32) * (np.float32(used) / np.float32(out))), used - 1
        ).astype(int)
        for used, out in zip(content, frame, strict=True)
    ]
    return full[: content[0], : content[1]][np.ix_(*pick)] > 0


@given(st.data())
def test_upsample_equals_the_definition(data: st.DataObject) -> None:
    side = st.integers(1, 6)
    cells = data.draw(side) * 8, data.draw(side) * 8
    content = tuple(data.draw(st.integers(1, 4 * c)) for c in cells)
    frame = data.draw(st.one_of(st.just(content), st.tuples(st.integers(1, 99), st.integers(1, 99))))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    # With multiples of 1/8 every blend is exact, so that no pixel's sign depends on rounding.
    logits = rng.integers(-20, 6, (2, *cells)).astype(np.float32) / 8
    placement = Placement(frame=frame, network=content, content=content)
    crops = upsample_masks(logits, placement)
    for mask, logit in zip(paste_masks(crops, frame), logits, strict=True):
        assert np.array_equal(mask, slow_upsample(logit.astype(np.float64), placement))
