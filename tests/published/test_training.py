"""A changed array of matching, selection or training fails its own row only."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from idol_deploy.config import preset
from published.arrays import Array, read_arrays
from published.training import compare_matcher, compare_selection, training_batch


@pytest.mark.parametrize(
    ("unit", "name", "change", "stages"),
    [
        ("matcher", "selected_query_mask1", np.logical_not, {"matched queries"}),
        ("matcher", "gt_of_selected2", lambda a: a[::-1], {"their instances"}),
        ("matcher", "gt_of_selected0", lambda a: a[1:], {"their instances"}),
        ("matcher", "matched_query_of_gt0", lambda a: a + 1, {"best queries"}),
        ("pos_neg", "positive1", np.logical_not, {"positives"}),
        ("pos_neg", "not_negative2", np.logical_not, {"not negatives"}),
        ("pos_neg", "contrast1_2", lambda a: a * 1.001, {"contrast items"}),
        ("pos_neg", "aux_cos0_3", lambda a: a[::-1], {"aux_cos items"}),
        ("pos_neg", "aux_label0_0", np.zeros_like, {"item labels"}),
        ("pos_neg", "loss_reid2", lambda a: a * 1.001, {"loss_reid"}),
        ("pos_neg", "loss_reid_aux0", lambda a: a * 1.001, {"loss_reid_aux"}),
    ],
)
def test_a_changed_array_fails_its_row_alone(
    reference: Path, unit: str, name: str, change: Callable[[Array], Array], stages: set[str]
) -> None:
    arrays = dict(read_arrays(reference / f"unit_{unit}.npz"))
    arrays[name] = change(arrays[name])
    rows = {"matcher": compare_matcher, "pos_neg": compare_selection}[unit](arrays)
    assert {row.stage for row in rows if not row.passed} == stages


def test_the_training_batch_is_that_of_the_arrays(reference: Path) -> None:
    unit = read_arrays(reference / "unit_train.npz")
    batch = training_batch(unit, preset("ytvis19_r50"))
    assert batch.images.shape == (4, 3, 128, 192)
    assert torch.equal(batch.images[3], torch.from_numpy(unit["images1"][1]))
    identities = unit["gt_ids0"]
    assert batch.targets.identities[0, : batch.targets.exists[0].sum()].tolist() == [
        int(identity) for identity in identities[0] if identity >= 0
    ]
    assert int(batch.targets.on_reference.sum()) == sum(
        int(((unit[f"gt_ids{i}"][0] >= 0) & (unit[f"gt_ids{i}"][1] >= 0)).sum()) for i in range(2)
    )
