"""Selection and suppression, compared with scalar references."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from idol_runtime.config import AssociationConfig
from idol_runtime.tracking.boxes import box_iou
from idol_runtime.tracking.detection import NetworkOutput, detect, select_queries, sigmoid, suppress


def slow_nms(boxes: np.ndarray, scores: np.ndarray, labels: np.ndarray, threshold: float) -> list[int]:
    kept: list[int] = []
    for i in np.argsort(-scores, kind="stable"):
        for j in kept:
            if labels[i] != labels[j]:
                continue
            low, high = np.maximum(boxes[i, :2], boxes[j, :2]), np.minimum(boxes[i, 2:], boxes[j, 2:])
            inter = np.prod(np.maximum(high - low, 0))
            areas = [np.prod(boxes[k, 2:] - boxes[k, :2]) for k in (i, j)]
            if inter / (sum(areas) - inter) > threshold:
                break
        else:
            kept.append(int(i))
    return kept


@given(st.integers(0, 2**32 - 1), st.integers(1, 40), st.floats(0.1, 0.9))
def test_selection_equals_class_wise_greedy_nms(seed: int, count: int, threshold: float) -> None:
    rng = np.random.default_rng(seed)
    centres = rng.uniform(0.2, 0.8, (4, 4)).astype(np.float32)
    boxes = (centres[rng.integers(0, 4, count)] + rng.normal(0, 0.02, (count, 4))).astype(np.float32)
    class_scores = rng.uniform(0, 0.6, (count, 3)).astype(np.float32)
    config = AssociationConfig(select_score=0.3, box_nms_iou=threshold)
    chosen = np.flatnonzero(class_scores.max(1) > 0.3)
    corners = np.concatenate([boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, :2] + boxes[:, 2:] / 2], axis=1)
    found = select_queries(class_scores, boxes, config)
    if len(chosen):
        kept = slow_nms(
            corners[chosen].astype(float),
            class_scores[chosen].max(1),
            class_scores[chosen].argmax(1),
            threshold,
        )
        assert found.tolist() == chosen[kept].tolist()
    else:
        assert found.tolist() == [class_scores.max(1).argmax()]


def test_only_those_that_stay_suppress() -> None:
    iou = np.float32([[1, 0.8, 0], [0.8, 1, 0.8], [0, 0.8, 1]])
    assert suppress(iou, 0.5).tolist() == [True, False, True]


def test_box_iou_of_empty_boxes_is_zero() -> None:
    empty = np.zeros((1, 4), np.float32)
    assert box_iou(empty, empty) == 0


def test_sigmoid_is_finite_everywhere() -> None:
    out = sigmoid(np.float32([-1e30, -5, 0, 5, 1e30]))
    assert out == pytest.approx([0, 0.0066929, 0.5, 0.9933071, 1], abs=1e-6)


def output(queries: int = 5, seed: int = 0) -> NetworkOutput:
    rng = np.random.default_rng(seed)
    return NetworkOutput(
        logits=rng.normal(-2, 1.5, (queries, 3)).astype(np.float32),
        boxes=rng.uniform(0.2, 0.5, (queries, 4)).astype(np.float32),
        embeddings=rng.normal(size=(queries, 16)).astype(np.float32),
        mask_features=rng.normal(size=(8, 4, 8)).astype(np.float32),
        mask_params=rng.normal(size=(queries, 169)).astype(np.float32),
        mask_reference=rng.uniform(0, 30, (queries, 2)).astype(np.float32),
    )


def test_detections_are_consistent_and_best_first() -> None:
    out = output(60)
    found = detect(out, AssociationConfig())
    assert 1 < len(found.query) < len(found.candidates)
    assert (np.diff(found.scores) <= 0).all()
    assert np.array_equal(found.embeddings, out.embeddings[found.query])
    assert np.array_equal(found.class_scores.argmax(1), found.labels)
    assert found.mask_logits.shape == (len(found.query), 8, 16)


def test_the_best_query_stands_in_when_none_is_above_the_threshold() -> None:
    out = output()
    found = detect(out, AssociationConfig(select_score=1.0))
    assert found.query.tolist() == [out.logits.max(1).argmax()]
