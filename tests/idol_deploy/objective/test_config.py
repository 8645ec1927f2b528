from typing import Any

import pytest

from idol_deploy.config import PRESETS
from idol_deploy.objective.config import LossConfig
from idol_runtime.errors import ConfigError


def test_presets_have_the_published_weights() -> None:
    published = LossConfig()
    assert all(config.train.loss == published for config in PRESETS.values())
    weights = (published.ce_weight, published.bbox_weight, published.giou_weight, published.mask_weight)
    assert weights == (2, 5, 2, 2)
    assert (published.dice_weight, published.reid_weight, published.reid_aux_weight) == (5, 2, 3)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"dice_weight": -1.0}, "dice_weight"),
        ({"reid_aux_weight": float("nan")}, "reid_aux_weight"),
        ({"embedding": "triplet"}, "'contrastive' or 'id_head'"),
        ({"selection": "random"}, "'transport' or 'iou'"),
        ({"iou_positive": 0.2}, "iou_negative <= iou_positive"),
        ({"masks_at_once": 0}, "masks_at_once"),
    ],
)
def test_what_cannot_be_is_refused(options: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        LossConfig(**options)
