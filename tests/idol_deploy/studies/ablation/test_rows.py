"""The rows of the ablation."""

from __future__ import annotations

from dataclasses import replace

import pytest

from idol_deploy.config import preset
from idol_deploy.objective.config import LossConfig
from idol_deploy.settings import TrainSettings, override_settings
from idol_deploy.studies.ablation.rows import ROWS, TRAININGS
from idol_runtime.config import AssociationConfig, override_stream


def test_every_training_serves_a_row_and_every_row_has_a_training() -> None:
    assert {row.training for row in ROWS} == set(TRAININGS)
    assert len({row.name for row in ROWS}) == len(ROWS) == 5


@pytest.mark.parametrize(
    ("name", "loss"),
    [
        ("id_head", LossConfig(embedding="id_head")),
        ("iou", LossConfig(selection="iou")),
        ("transport", LossConfig()),
    ],
)
def test_trainings_differ_in_their_loss_alone(name: str, loss: LossConfig) -> None:
    settings = TrainSettings(preset("ytvis19_r50"))
    network = replace(settings.network, train=replace(settings.network.train, loss=loss))
    assert override_settings(settings, TRAININGS[name]) == replace(settings, network=network)


def test_the_rows_end_with_the_published_association() -> None:
    stream = preset("ytvis19_r50").stream
    changed = [override_stream(stream, row.association).association for row in ROWS]
    off = AssociationConfig(temporal="momentum", frame_weight=False)
    cues = replace(off, matching="multi_cue")
    assert changed == [cues, cues, off, off, AssociationConfig()]
