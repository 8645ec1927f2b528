import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from idol_deploy.objective.boxes import giou_loss, pairwise_iou, to_cxcywh, to_xyxy
from idol_runtime.tracking.boxes import box_iou

# Eighths: touching, equal, nested and empty boxes all occur.
_CORNER = st.integers(0, 8).map(lambda eighth: eighth / 8)


@st.composite
def _boxes(draw: st.DrawFn) -> Tensor:
    """Boxes [n, 4], xyxy."""
    n = draw(st.integers(1, 5))
    corners = [sorted(draw(st.tuples(_CORNER, _CORNER))) for _ in range(2 * n)]
    flat = torch.tensor(corners).reshape(n, 2, 2)
    return flat.transpose(1, 2).flatten(1)


def _giou(a: list[float], b: list[float]) -> float:
    """Compute IoU and GIoU of two boxes by definition; a division by zero gives zero."""
    inter = max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - inter
    hull = (max(a[2], b[2]) - min(a[0], b[0])) * (max(a[3], b[3]) - min(a[1], b[1]))
    return (inter / union if union else 0.0) - ((hull - union) / hull if hull else 0.0)


@given(_boxes(), _boxes())
def test_overlaps_are_those_of_the_definition(a: Tensor, b: Tensor) -> None:
    iou, giou = pairwise_iou(a[None], b[None])
    np.testing.assert_allclose(iou[0], box_iou(a.numpy(), b.numpy()), atol=1e-6)
    wanted = [[_giou(one, other) for other in b.tolist()] for one in a.tolist()]
    # The smallest area is an eighth by an eighth, which bounds the effect of the published 1e-7.
    np.testing.assert_allclose(giou[0], wanted, atol=1e-5)
    n = min(len(a), len(b))
    np.testing.assert_allclose(giou_loss(a[:n], b[:n]), 1 - giou[0].diagonal()[:n], atol=1e-5)


@given(_boxes())
def test_both_forms_say_the_same(boxes: Tensor) -> None:
    torch.testing.assert_close(to_xyxy(to_cxcywh(boxes)), boxes)


@pytest.mark.parametrize("other", [[0.0, 0.0, 0.0, 0.0], [0.5, 0.5, 0.5, 0.5], [0.2, 0.2, 0.4, 0.4]])
def test_the_gradient_of_empty_boxes_is_finite(other: list[float]) -> None:
    box = torch.zeros(4, requires_grad=True)
    giou_loss(box, torch.tensor(other)).backward()
    assert box.grad is not None
    assert box.grad.isfinite().all()
