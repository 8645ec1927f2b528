"""Boxes: conversion and IoU, compared with the definition for one box at a time."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from idol_runtime.tracking.boxes import box_iou, cxcywh_to_xyxy

numbers = st.floats(0, 100, width=32, allow_subnormal=False)
box = st.tuples(numbers, numbers, numbers, numbers)


def iou_of(a: np.ndarray, b: np.ndarray) -> float:
    """Return the IoU of two boxes in float64, by its definition."""
    a, b = a.astype(float), b.astype(float)
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    inside = width * height if width > 0 and height > 0 else 0.0
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - inside
    return inside / union if union > 0 else 0.0


def corners(boxes: list[tuple[float, ...]]) -> np.ndarray:
    array = np.array(boxes, np.float32).reshape(-1, 4)
    array[:, 2:] += array[:, :2]
    return array


def test_centre_form_to_corners() -> None:
    boxes = np.float32([[5, 6, 4, 2], [0, 0, 0, 0]])
    assert cxcywh_to_xyxy(boxes).tolist() == [[3, 5, 7, 7], [0, 0, 0, 0]]
    assert cxcywh_to_xyxy(boxes).dtype == np.float32
    assert cxcywh_to_xyxy(boxes[:0]).shape == (0, 4)
    assert boxes.tolist() == [[5, 6, 4, 2], [0, 0, 0, 0]], "the input is not modified"


@given(st.lists(box, max_size=5), st.lists(box, max_size=5))
def test_iou_equals_its_definition(first: list[tuple[float, ...]], second: list[tuple[float, ...]]) -> None:
    a, b = corners(first), corners(second)
    iou = box_iou(a, b)
    assert iou.dtype == np.float32
    assert iou.shape == (len(a), len(b))
    # Differences of coordinates up to 200 have a float32 error of 1e-5, which matters for the area of a thin box.
    for i in range(len(a)):
        for j in range(len(b)):
            thin = min((a[i, 2:] - a[i, :2]).min(), (b[j, 2:] - b[j, :2]).min())
            if thin > 0.1:
                assert iou[i, j] == pytest.approx(iou_of(a[i], b[j]), abs=2e-3)
            assert 0 <= iou[i, j] <= 1.001


@given(st.lists(box, min_size=1, max_size=5))
def test_a_box_is_itself_and_overlap_is_mutual(boxes: list[tuple[float, ...]]) -> None:
    a = corners(boxes)
    iou = box_iou(a, a)
    assert np.array_equal(iou, iou.T)
    filled = (a[:, 2:] - a[:, :2]).prod(axis=1) > 1e-6
    np.testing.assert_allclose(np.diagonal(iou)[filled], 1, rtol=1e-5)


def test_empty_boxes_overlap_nothing() -> None:
    point, line, square = np.float32([[1, 1, 1, 1], [0, 1, 2, 1], [0, 0, 2, 2]])
    iou = box_iou(np.stack([point, line, square]), np.stack([point, line, square]))
    assert iou.tolist() == [[0, 0, 0], [0, 0, 0], [0, 0, 1]]


def test_touching_boxes_do_not_overlap() -> None:
    assert box_iou(np.float32([[0, 0, 1, 1]]), np.float32([[1, 0, 2, 1], [0, 1, 1, 2]])).tolist() == [[0, 0]]
