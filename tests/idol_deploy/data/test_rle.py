"""Masks equal pycocotools; invalid texts are detected."""

from __future__ import annotations

import numpy as np
import pycocotools.mask as coco
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from idol_deploy.data import rle
from idol_deploy.data.rle import expand_rle, measure_rles

MASKS = arrays(np.bool_, st.tuples(st.integers(1, 40), st.integers(1, 40)))


def _encode(mask: np.ndarray) -> bytes:
    return coco.encode(np.asfortranarray(mask, np.uint8))["counts"]


@given(masks=st.lists(MASKS, max_size=5), spoiled=st.integers(0, 5))
def test_areas_and_sizes(masks: list[np.ndarray], spoiled: int) -> None:
    counts = [_encode(mask) for mask in masks]
    expected = [(mask.sum(), mask.size) for mask in masks]
    counts.insert(spoiled, b"P")  # ends within a number
    expected.insert(spoiled, (-1, -1))
    areas, sizes = measure_rles(counts)
    assert list(zip(areas, sizes, strict=True)) == expected


@given(mask=MASKS)
def test_expands_what_was_compressed(mask: np.ndarray) -> None:
    np.testing.assert_array_equal(expand_rle(_encode(mask), mask.shape), mask)


def test_long_runs_and_many_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rle, "_BATCH_BYTES", 16)
    large = np.zeros((3000, 5000), np.bool_)
    large[1000:1003, 7:4000] = True
    large[:, -1] = True
    areas, sizes = measure_rles([_encode(large)] * 3)
    assert areas.tolist() == [large.sum()] * 3
    assert sizes.tolist() == [large.size] * 3
    np.testing.assert_array_equal(expand_rle(_encode(large), large.shape), large)


@pytest.mark.parametrize("text", [b"", b"\xff1", b" 1", b"ooooooo0", b"O", b"1O"])
def test_no_mask(text: bytes) -> None:
    assert measure_rles([b"05", text, b"05"])[0].tolist() == [5, -1, 5]


def test_none() -> None:
    assert [len(part) for part in measure_rles([])] == [0, 0]
