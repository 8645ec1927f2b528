from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from idol_deploy.config import IdolConfig
from idol_deploy.data.loader import to_pair
from idol_deploy.data.samples import Sample
from idol_deploy.model.idol import Idol
from idol_deploy.objective import criterion as criterion_module
from idol_deploy.objective.batch import collate
from idol_deploy.objective.config import LossConfig
from idol_deploy.objective.contrast import Selection
from idol_deploy.objective.criterion import Criterion
from idol_deploy.studies.figure.annotated import read_video_frame
from idol_deploy.studies.figure.selection import choose, draw_selection
from idol_deploy.studies.figure.sheet import colour_of
from idol_deploy.train.graph import TrainingGraph
from idol_runtime.errors import ConfigError
from moving_shapes import MadeDataset

# Low thresholds, so that an untrained network has positive queries.
LOSS = LossConfig(iou_positive=0.15, iou_negative=0.1)


@pytest.fixture(scope="session")
def sample(videos: MadeDataset, config: IdolConfig) -> Sample:
    found = read_video_frame(videos.annotations, videos.frames, config, "1", 1)
    assert len(found.labels) == 3
    return found


@pytest.fixture(scope="session")
def network(config: IdolConfig) -> Idol:
    torch.manual_seed(3)
    model = replace(config.model, queries=60)
    return Idol(replace(config, model=model, train=replace(config.train, loss=LOSS))).eval()


@pytest.mark.parametrize("method", ["iou", "transport"])
def test_what_is_drawn_is_what_the_loss_takes(
    network: Idol, sample: Sample, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[Selection] = []
    compare = criterion_module.compare

    def spy(key: object, reference: object, selection: Selection, *rest: object) -> object:
        taken.append(selection)
        return compare(key, reference, selection, *rest)

    monkeypatch.setattr(criterion_module, "compare", spy)
    loss = replace(LOSS, selection=method)
    with torch.no_grad():
        batch = collate([to_pair(sample)], network.config.preprocessing)
        TrainingGraph(network, Criterion(loss, network.config.model.hidden_dim))(batch)
    (expected,) = taken
    found = choose(network, sample, LOSS)[method]
    assert found.positive.any()
    np.testing.assert_array_equal(found.positive, expected.positive[0])
    np.testing.assert_array_equal(found.negative, expected.negative[0])


def overlap(a: np.ndarray, b: np.ndarray) -> float:
    width, height = (min(a[i + 2], b[i + 2]) - max(a[i], b[i]) for i in (0, 1))
    common = max(width, 0) * max(height, 0)
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)]
    return float(common / (sum(areas) - common))


def test_counts_of_one_box_at_a_time(network: Idol, sample: Sample) -> None:
    choices = choose(network, sample, LOSS)
    truth = sample.reference.boxes_xyxy
    for choice in choices.values():
        n, queries = choice.positive.shape
        for i in range(n):
            for q in range(queries):
                ious = [overlap(choice.boxes_xyxy[q], box) for box in truth]
                assert choice.astray[i, q] == (choice.positive[i, q] and max(ious) > ious[i])
                elsewhere = any(choice.positive[j, q] for j in range(n) if j != i)
                assert choice.hard[i, q] == (choice.negative[i, q] and elsewhere)
    by_iou = choices["iou"]
    ious = np.array([[overlap(box, instance) for box in by_iou.boxes_xyxy] for instance in truth])
    np.testing.assert_array_equal(by_iou.positive, ious > 0.15)
    np.testing.assert_array_equal(by_iou.negative, ious < 0.1)
    assert by_iou.positive.any()
    assert by_iou.astray.any()
    assert choices["transport"].hard.any()


def stroke(instance: int) -> str:
    red, green, blue = (math.floor(channel * 255 + 0.5) for channel in colour_of(instance))
    return f"stroke: #{red:02x}{green:02x}{blue:02x}"


def test_every_positive_is_a_box_in_its_instance_colour(
    network: Idol, sample: Sample, svg: Callable[..., str]
) -> None:
    choices = choose(network, sample, LOSS)
    for instance in (None, 1):
        source = svg(lambda path, i=instance: draw_selection(network, sample, path, instance=i, note="fresh"))
        rectangles = [part.partition("</g>")[0] for part in source.split('<g id="patch_')]
        for i in range(3):
            drawn = sum(stroke(i) in part and "fill: none" in part for part in rectangles)
            wanted = 1 + sum(int(choice.positive[i].sum()) for choice in choices.values())
            assert drawn == (wanted if instance in (None, i) else 0)
        shown = [0, 1, 2] if instance is None else [1]
        for choice in choices.values():
            assert f">{choice.counted(shown)}</text>" in source
        assert ">(a) IoU: above 0.15 positive, below 0.1 negative</text>" in source
        assert ">video 1, frame 1; fresh</text>" in source


def test_an_instance_that_is_not_there(network: Idol, sample: Sample, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="has no instance 3; choose one of 0 to 2"):
        draw_selection(network, sample, tmp_path / "a.png", instance=3)
