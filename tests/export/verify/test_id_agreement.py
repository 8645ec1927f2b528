"""IDF1 between two runs, compared with the published evaluator and with known values."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import trackeval
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment

from idol_export.verify.id_agreement import TrackComparison, best_assignment
from idol_runtime.preprocess import Placement
from idol_runtime.tracking.results import FrameResult

RNG = np.random.default_rng(0)
SIZE = (16, 24)


def _result(ids: list[int], columns: list[int]) -> FrameResult:
    """Return a result with masks of four columns, beginning at these columns."""
    masks = np.zeros((len(ids), *SIZE), np.bool_)
    for mask, column in zip(masks, columns, strict=True):
        mask[:, column : column + 4] = True
    count = len(ids)
    result = FrameResult(
        index=0,
        ids=np.array(ids, np.int64),
        labels=np.zeros(count, np.int64),
        scores=np.ones(count, np.float32),
        class_scores=np.ones((count, 1), np.float32),
        boxes_xyxy=np.zeros((count, 4), np.float32),
        mask_logits=np.zeros((count, 4, 6), np.float32),
        placement=Placement(frame=SIZE, network=SIZE, content=SIZE),
        class_names=("thing",),
    )
    result.__dict__["masks"] = masks
    return result


def _compared(*frames: tuple[FrameResult, FrameResult]) -> TrackComparison:
    tracks = TrackComparison()
    for expected, found in frames:
        tracks.add_frame(expected, found)
    return tracks


def test_the_names_of_identities_do_not_matter() -> None:
    tracks = _compared(
        (_result([0, 1], [0, 12]), _result([7, 3], [1, 12])), (_result([0], [2]), _result([7], [2]))
    )
    assert (tracks.idf1, tracks.reference_masks, tracks.frames) == (1.0, 3, 2)


def test_a_swap_costs_its_frames() -> None:
    same = (_result([0, 1], [0, 12]), _result([0, 1], [0, 12]))
    swapped = (_result([0, 1], [0, 12]), _result([1, 0], [0, 12]))
    assert _compared(same, same, same, swapped).idf1 == pytest.approx(6 / 8)


def test_identities_begin_anew_with_a_clip() -> None:
    tracks = _compared((_result([0, 1], [0, 12]), _result([0, 1], [0, 12])))
    tracks.next_clip()
    tracks.add_frame(_result([0, 1], [0, 12]), _result([1, 0], [0, 12]))
    assert tracks.idf1 == 1.0


def test_half_of_the_union_is_enough_and_less_is_not() -> None:
    # IoU of 4 columns and 4 columns: 3/5 if shifted by 1, 2/6 if shifted by 2.
    assert _compared((_result([0], [0]), _result([0], [1]))).idf1 == 1.0
    assert _compared((_result([0], [0]), _result([0], [2]))).idf1 == 0.0


def test_nothing_agrees_with_nothing() -> None:
    empty = _result([], [])
    assert _compared((empty, empty)).idf1 == 1.0
    assert _compared((empty, _result([0], [0]))).idf1 == 0.0


_FRAME = st.tuples(*2 * [st.dictionaries(st.integers(0, 3), st.integers(0, 12), max_size=4)])


@settings(max_examples=200)
@given(st.lists(st.lists(_FRAME, min_size=1, max_size=5), min_size=1, max_size=3))
def test_idf1_never_exceeds_what_was_possible_at_any_frame_before(
    clips: list[list[tuple[dict[int, int], dict[int, int]]]],
) -> None:
    """Frames are columns of masks by identity, of both runs."""
    masks = sum(len(reference) for clip in clips for reference, _ in clip)
    tracks, highest = TrackComparison(), [1.0]
    for clip in clips:
        for runs in clip:
            tracks.add_frame(*(_result(list(run), list(run.values())) for run in runs))
            highest.append(tracks.highest_idf1(masks))
        tracks.next_clip()
    assert highest[-1] == pytest.approx(tracks.idf1, abs=1e-12)
    assert all(before >= after - 1e-12 for before, after in itertools.pairwise(highest))


def test_the_highest_possible_idf1_is_reached_if_all_other_frames_agree() -> None:
    same, missing = (_result([0, 1], [0, 12]),) * 2, (_result([0, 1], [0, 12]), _result([5], [6]))
    tracks = _compared(same, missing)
    highest = tracks.highest_idf1(8)
    for _ in range(2):
        tracks.add_frame(*same)
    assert tracks.idf1 == highest == 2 * 6 / (8 + 7)


@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (5, 3), (8, 8), (0, 4)])
def test_the_assignment_is_the_best(shape: tuple[int, int]) -> None:
    for _ in range(20):
        gain = RNG.integers(0, 6, shape).astype(float)
        assert best_assignment(gain) == gain[linear_sum_assignment(-gain)].sum()


def test_idf1_is_the_published_evaluators() -> None:
    metric = trackeval.metrics.Identity({"THRESHOLD": 0.5, "PRINT_CONFIG": False})
    tracks = TrackComparison()
    data: dict[str, list[object]] = {"gt_ids": [], "tracker_ids": [], "similarity_scores": []}
    for _ in range(40):
        both = []
        for _ in range(2):
            ids = RNG.permutation(5)[: RNG.integers(0, 4)]
            both.append(_result(ids.tolist(), (4 * ids + RNG.integers(0, 3, len(ids))).tolist()))
        tracks.add_frame(*both)
        a, b = (r.masks.reshape(len(r), 16 * 24).astype(float) for r in both)
        inter = a @ b.T
        union = a.sum(1)[:, None] + b.sum(1)[None] - inter
        for key, value in zip(data, (both[0].ids, both[1].ids, inter / np.maximum(union, 1)), strict=True):
            data[key].append(value)
    counts = {
        "num_timesteps": 40,
        "num_gt_ids": 5,
        "num_tracker_ids": 5,
        "num_gt_dets": tracks.reference_masks,
        "num_tracker_dets": tracks.masks,
    }
    assert tracks.idf1 == pytest.approx(float(metric.eval_sequence({**data, **counts})["IDF1"]))
    assert 0.1 < tracks.idf1 < 0.9
