import math

import pytest
import torch

from idol_deploy.objective.losses import box_losses, class_loss, dice_loss, focal_loss, mask_focal_loss


def test_classes_and_boxes_as_query_by_query() -> None:
    torch.manual_seed(0)
    logits, boxes, wanted = torch.randn(2, 3, 5, 4), torch.rand(2, 3, 5, 4), torch.rand(2, 3, 5, 4)
    labels, matched = torch.randint(0, 4, (2, 3, 5)), torch.rand(2, 3, 5) < 0.4
    classes, distance, overlap = class_loss(logits, labels, matched), *box_losses(boxes, wanted, matched)
    for layer in range(2):
        focal = l1 = giou = 0.0
        for n in range(3):
            for q in range(5):
                at = (layer, n, q)
                for k in range(4):
                    p = 1 / (1 + math.exp(-float(logits[(*at, k)])))
                    if matched[at] and labels[at] == k:
                        focal -= 0.25 * (1 - p) ** 2 * math.log(p)
                    else:
                        focal -= 0.75 * p**2 * math.log(1 - p)
                if matched[at]:
                    l1 += float((boxes[at] - wanted[at]).abs().sum())
                    giou += 1 - _giou(boxes[at].tolist(), wanted[at].tolist())
        assert float(classes[layer]) == pytest.approx(focal, rel=1e-5)
        assert float(distance[layer]) == pytest.approx(l1, rel=1e-5)
        assert float(overlap[layer]) == pytest.approx(giou, rel=1e-5)


def _giou(one: list[float], other: list[float]) -> float:
    """Compute the IoU of two cxcywh boxes, axis by axis."""
    inter = hull = 1.0
    for axis in (0, 1):
        low = [box[axis] - box[axis + 2] / 2 for box in (one, other)]
        high = [box[axis] + box[axis + 2] / 2 for box in (one, other)]
        inter *= max(0.0, min(high) - max(low))
        hull *= max(high) - min(low)
    union = one[2] * one[3] + other[2] * other[3] - inter
    return inter / union - (hull - union) / hull


def test_masks_as_pixel_by_pixel() -> None:
    torch.manual_seed(1)
    logits, masks = torch.randn(3, 4, 5) * 3, torch.rand(3, 4, 5) < 0.5
    for found, focal, dice in zip(
        range(3), mask_focal_loss(logits, masks), dice_loss(logits, masks), strict=True
    ):
        flat = list(zip(logits[found].flatten().tolist(), masks[found].flatten().tolist(), strict=True))
        score = [1 / (1 + math.exp(-x)) for x, _ in flat]
        terms = [
            -0.25 * (1 - p) ** 2 * math.log(p) if inside else -0.75 * p**2 * math.log(1 - p)
            for p, (_, inside) in zip(score, flat, strict=True)
        ]
        common = sum(p for p, (_, inside) in zip(score, flat, strict=True) if inside)
        total = sum(score) + sum(inside for _, inside in flat)
        assert float(focal) == pytest.approx(sum(terms) / len(terms), rel=1e-5)
        assert float(dice) == pytest.approx(1 - (2 * common + 1) / (total + 1), rel=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("wanted", [0.0, 1.0])
def test_losses_and_gradients_are_finite_for_extreme_logits(dtype: torch.dtype, wanted: float) -> None:
    values = [-6e4, -100.0, -17.0, 0.0, 17.0, 100.0, 6e4]
    logits = torch.tensor(values, dtype=dtype).reshape(1, -1).requires_grad_()
    targets = torch.full((1, len(values)), wanted)
    for loss in (focal_loss(logits, targets).sum(), dice_loss(logits[None], targets[None]).sum()):
        assert loss.dtype == torch.float32
        (gradient,) = torch.autograd.grad(loss, logits)
        assert loss.isfinite()
        assert gradient.isfinite().all()
