"""Both runs equal separate pipelines; changed identities and the choice of frames."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from idol_deploy.studies.ablation.rows import WITHOUT_TWS
from idol_deploy.studies.figure.paired_runs import (
    TAKEN_OVER,
    PairedFrame,
    choose_frames,
    find_changes,
    run_pair,
)
from idol_runtime.backends.base import BatchLimit
from idol_runtime.config import AssociationConfig, Category, Preprocessing, StreamConfig, override_stream
from idol_runtime.errors import ConfigError, SourceError
from idol_runtime.pipeline import Pipeline
from idol_runtime.tracking.association import NO_TRACK
from idol_runtime.tracking.detection import NetworkOutput
from idol_runtime.tracking.rle import decode_rle

QUERIES, WIDTH = 12, 4
# A high threshold for new tracks, so that a run may not track an instance that the other tracks.
CONFIG = StreamConfig(
    (Category("cat", 1), Category("dog", 2)),
    Preprocessing(short_side=None),
    AssociationConfig(new_track_score=0.5),
)


class Invented:
    """A network with outputs that differ per frame and stable embeddings per query; counts its calls."""

    name, reason, network_size = "invented", "", None
    graph, batch = None, BatchLimit()

    def __init__(self) -> None:
        self.calls = 0

    def infer(self, images: np.ndarray) -> list[NetworkOutput]:
        self.calls += 1
        rng = np.random.default_rng(int(images.astype(np.int64).sum()))
        same = np.random.default_rng(0)
        height, width = (side // 8 for side in images.shape[1:3])

        def draw(*shape: int) -> np.ndarray:
            return rng.normal(size=shape).astype(np.float32)

        steady = 3 * same.normal(size=(QUERIES, WIDTH)).astype(np.float32)
        boxes = np.concatenate([rng.uniform(0.2, 0.8, (QUERIES, 2)), np.full((QUERIES, 2), 0.2)], 1)
        return [
            NetworkOutput(
                logits=draw(QUERIES, 2) - 1,
                boxes=boxes.astype(np.float32),
                embeddings=steady + draw(QUERIES, WIDTH),
                mask_features=draw(8, height, width),
                mask_params=draw(QUERIES, 169),
                mask_reference=boxes[:, :2].astype(np.float32) * 64,
            )
        ]

    def close(self) -> None:
        """Do nothing."""


@pytest.fixture
def clip(tmp_path: Path) -> tuple[Path, np.ndarray]:
    """A folder of frames, and the frames."""
    frames = np.random.default_rng(1).integers(0, 256, (12, 64, 64, 3), np.uint8)
    for t, frame in enumerate(frames):
        Image.fromarray(frame).save(tmp_path / f"{t}.png")
    return tmp_path, frames


def test_each_run_is_as_if_alone(clip: tuple[Path, np.ndarray]) -> None:
    folder, frames = clip
    network = Invented()
    pairs = run_pair(Pipeline(network, CONFIG), WITHOUT_TWS, str(folder), max_frames=10)
    assert [frame.index for frame in pairs] == list(range(10))
    assert network.calls == 10
    assert any((frame.ids[0] != frame.ids[1]).any() for frame in pairs)
    assert any((frame.ids == NO_TRACK).any() for frame in pairs)
    for run, config in enumerate((CONFIG, override_stream(CONFIG, WITHOUT_TWS))):
        alone = Pipeline(Invented(), config)
        for pair, image in zip(pairs, frames, strict=False):
            result = alone.step(image)
            tracked = np.flatnonzero(pair.ids[run] != NO_TRACK)
            assert sorted(pair.ids[run, tracked]) == sorted(result.ids)
            for i in tracked:
                j = result.ids.tolist().index(pair.ids[run, i])
                np.testing.assert_array_equal(pair.boxes_xyxy[i], result.boxes_xyxy[j])
                np.testing.assert_array_equal(decode_rle(pair.masks[i]), result.masks[j])


def test_without_tws_is_the_published_baseline() -> None:
    config = override_stream(CONFIG, WITHOUT_TWS).association
    assert config == replace(CONFIG.association, temporal="momentum", frame_weight=False)


def test_what_cannot_be_tracked_twice(tmp_path: Path) -> None:
    pipeline = Pipeline(Invented(), CONFIG)
    with pytest.raises(ConfigError, match="temporal"):
        run_pair(pipeline, ["association.temporal=never"], str(tmp_path))
    with pytest.raises(SourceError, match="holds no image"):
        run_pair(pipeline, WITHOUT_TWS, str(tmp_path))


def made(*frames: tuple[list[int], list[int]]) -> list[PairedFrame]:
    """Return frames with these identities per run."""
    nothing = np.empty((0, 4), np.float32)
    return [PairedFrame(t, np.array(ids, np.int64), nothing, ()) for t, ids in enumerate(frames)]


def test_frames_where_the_runs_disagree() -> None:
    steady, gone, back = ([0, 1], [0, 1]), ([0], [0]), ([0, 1], [0, 2])
    assert choose_frames(made(steady, steady, gone, gone, back, back), 3) == [1, 2, 4]
    assert choose_frames(made(steady, steady, gone, gone, back, back), 2) == [1, 4]
    # Too far apart, and no disagreement.
    assert choose_frames(made(steady, gone, gone, gone, back), 2, within=2) == [0, 4]
    assert choose_frames(made(steady, steady, steady, steady, gone), 3) == [0, 2, 4]
    # A swap of two identities counts more than one new identity.
    swap = ([0, 1], [1, 0])
    assert choose_frames(made(back, steady, gone, swap, steady), 2)[1] == 3


def test_changes_against_the_other_run_or_the_truth() -> None:
    frames = made(([0, 1], [0, 1]), ([0, -1], [0, -1]), ([0, 1], [0, 2]), ([5, 1], [0, 2]))
    assert [c.tolist() for c in find_changes(frames, 1)] == [[-1, -1], [-1, -1], [-1, 1], [-1, -1]]
    assert [c.tolist() for c in find_changes(frames, 0)] == [[-1, -1], [-1, -1], [-1, -1], [0, -1]]
    truth = [np.array(whose) for whose in ([3, -1], [3, 4], [4, 3], [3, 4])]
    assert [c.tolist() for c in find_changes(frames, 0, truth)] == [
        [-1, -1],
        [-1, -1],
        [TAKEN_OVER, 0],
        [1, 0],
    ]


@given(st.lists(st.lists(st.integers(-1, 3), min_size=2, max_size=2), min_size=2, max_size=8))
def test_equal_runs_never_change(rows: list[list[int]]) -> None:
    assert all((c == NO_TRACK).all() for c in find_changes(made(*((row, row) for row in rows)), 1))
