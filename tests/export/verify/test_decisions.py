"""Compared decisions: equal ones, near ties, and errors."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from idol_export.verify import decisions as agreement
from idol_export.verify.decisions import NEAR, Agreement, DecisionComparison, Decisions
from idol_runtime.config import AssociationConfig
from idol_runtime.tracking.association import NO_TRACK, Tracker, bi_softmax, multi_cue
from idol_runtime.tracking.boxes import box_iou, cxcywh_to_xyxy
from idol_runtime.tracking.detection import (
    NetworkOutput,
    decode_queries,
    select_queries,
    sigmoid,
    suppress_masks,
)
from idol_runtime.tracking.masks import mask_iou

CLASSES, WIDTH = 4, 16
CONFIG = AssociationConfig()
TIGHT = NEAR / 4


@dataclass(frozen=True)
class Object:
    """One query of a scene: scores, position and embedding."""

    score: float = 0.9
    label: int = 0
    cell: int = 0  # index in an 8 x 8 grid of separate boxes
    parts: tuple[int, ...] = (0,)  # regions of the mask, of eight disjoint ones
    look: int = 0  # axis of its embedding
    width: float = 0.1
    other: tuple[int, float] | None = None  # score of a second class
    embedding: tuple[float, ...] = field(default=())


def scene(*objects: Object) -> NetworkOutput:
    """Return a frame with these queries and one query below all thresholds."""
    n = len(objects) + 1
    features = np.zeros((8, 6, 16), np.float32)
    for region in range(8):
        features[region, :, 2 * region : 2 * region + 2] = 1
    output = NetworkOutput(
        logits=np.full((n, CLASSES), -8, np.float32),
        boxes=np.full((n, 4), 0.01, np.float32),
        embeddings=np.zeros((n, WIDTH), np.float32),
        mask_features=features,
        mask_params=np.zeros((n, 169), np.float32),
        mask_reference=np.zeros((n, 2), np.float32),
    )
    for i, item in enumerate(objects):
        output.logits[i, item.label] = np.log(item.score / (1 - item.score))
        if item.other:
            output.logits[i, item.other[0]] = np.log(item.other[1] / (1 - item.other[1]))
        centre = (item.cell % 8 + 0.5) / 8, (item.cell // 8 + 0.5) / 8
        output.boxes[i] = [*centre, item.width, 0.1]
        output.embeddings[i] = item.embedding or 4 * np.eye(WIDTH)[item.look]
        output.mask_params[i, [2 + part for part in item.parts]] = 1  # the first neuron adds up its regions
        output.mask_params[i, [80, 144]] = 1
        output.mask_params[i, 168] = -0.3
    return output


def three(*scores: float) -> NetworkOutput:
    """Return three objects without overlap or similarity."""
    return scene(*(Object(s, k, k, (k,), k) for k, s in enumerate(scores or (0.9, 0.8, 0.7))))


class Run:
    """A run that can decide differently from the code and continues from its own decisions."""

    def __init__(self, config: AssociationConfig) -> None:
        self.config = config
        self.tracker = Tracker(config)

    def frame(
        self,
        output: NetworkOutput,
        *,
        candidates: Sequence[int] | None = None,
        query: Sequence[int] | None = None,
        labels: Sequence[int] | None = None,
        ids: Sequence[int] | None = None,
    ) -> Decisions:
        class_scores = sigmoid(output.logits)
        chosen = _array(candidates, lambda: select_queries(class_scores, output.boxes, self.config))
        kept = _array(query, lambda: chosen[suppress_masks(decode_queries(output, chosen), self.config)])
        given_labels = _array(labels, lambda: class_scores[kept].argmax(axis=1))
        features = (class_scores[kept].max(axis=1), given_labels, output.boxes[kept], output.embeddings[kept])
        given_ids = _array(ids, lambda: self.tracker.associate(*features))
        self.tracker.commit(given_ids, *features)
        return Decisions(chosen, kept, given_ids, given_labels)


def _array(values: Sequence[int] | None, otherwise: Callable[[], np.ndarray]) -> np.ndarray:
    return otherwise() if values is None else np.array(values, np.int64)


def compare_run(
    frames: Sequence[NetworkOutput], config: AssociationConfig = CONFIG, **flips: Sequence[int]
) -> DecisionComparison:
    """Compare the frames with a run that decides as `flips` on the third frame from the end."""
    comparison, run = DecisionComparison(config), Run(config)
    for t, output in enumerate(frames):
        comparison.add_frame(output, run.frame(output, **(flips if t == len(frames) - 3 else {})))
    return comparison


def errors(comparison: DecisionComparison) -> dict[str, int]:
    return {name: len(part.errors) for name, part in comparison.parts.items() if part.errors}


def near_ties(comparison: DecisionComparison) -> dict[str, int]:
    return {name: part.near_ties for name, part in comparison.parts.items() if part.near_ties}


def flip(
    frame: NetworkOutput, config: AssociationConfig = CONFIG, **flips: Sequence[int]
) -> DecisionComparison:
    """Compare four equal frames with a run that decides differently on the second."""
    return compare_run([frame] * 4, config, **flips)


def noisy(output: NetworkOutput, rng: np.random.Generator, scale: float) -> NetworkOutput:
    def shake(array: np.ndarray) -> np.ndarray:
        return (array * (1 + scale * rng.standard_normal(array.shape))).astype(np.float32)

    return NetworkOutput(**{name: shake(array) for name, array in vars(output).items()})


def random_video(seed: int, frames: int = 8, queries: int = 14) -> list[NetworkOutput]:
    """Return objects that move, overlap, and have random scores."""
    rng = np.random.default_rng(seed)
    base = rng.random((queries, 4)).astype(np.float32) * 0.5 + 0.1
    looks = 2 * rng.standard_normal((queries, WIDTH))
    params = rng.standard_normal((queries, 169)) * 0.3
    video = []
    for _ in range(frames):
        video.append(
            NetworkOutput(
                logits=(rng.standard_normal((queries, CLASSES)) * 2 - 2).astype(np.float32),
                boxes=(base + 0.01 * rng.random(base.shape)).astype(np.float32),
                embeddings=(looks + 0.3 * rng.standard_normal(looks.shape)).astype(np.float32),
                mask_features=rng.standard_normal((8, 5, 7)).astype(np.float32),
                mask_params=(params + 0.1 * rng.standard_normal(params.shape)).astype(np.float32),
                mask_reference=(40 * rng.random((queries, 2))).astype(np.float32),
            )
        )
    return video


CONFIGS = [
    CONFIG,
    replace(CONFIG, mask_nms_iou=0.9, box_nms_iou=0.4),
    replace(CONFIG, temporal="momentum", frame_weight=False, mask_nms_iou=0.8),
    replace(CONFIG, matching="multi_cue", mask_nms_iou=0.8),
    replace(CONFIG, select_score=0.9),
]


@given(st.integers(0, 2**32 - 1), st.sampled_from(CONFIGS))
def test_identical_runs_agree(seed: int, config: AssociationConfig) -> None:
    comparison = compare_run(random_video(seed), config)
    assert not errors(comparison)
    assert not near_ties(comparison)
    assert (
        comparison.parts["selection"].compared
        >= comparison.parts["mask NMS"].compared
        >= comparison.parts["labels"].compared
        > 0
    )


@given(st.integers(0, 2**32 - 1), st.sampled_from(CONFIGS))
def test_float_noise_is_no_error(seed: int, config: AssociationConfig) -> None:
    comparison, run, rng = DecisionComparison(config), Run(config), np.random.default_rng(seed)
    for output in random_video(seed):
        comparison.add_frame(output, run.frame(noisy(output, rng, 1e-6)))
    assert not errors(comparison)


@given(st.integers(0, 2**32 - 1))
def test_what_noise_can_flip_is_a_near_tie(seed: int) -> None:
    """Every object exists twice, so that every NMS and every order is a near tie."""
    comparison, run, rng = DecisionComparison(CONFIG), Run(CONFIG), np.random.default_rng(seed)
    for output in random_video(seed, queries=6):
        doubled = {name: np.concatenate([array] * 2) for name, array in vars(output).items()}
        doubled["mask_features"] = output.mask_features
        ours = noisy(NetworkOutput(**doubled), rng, 1e-7)
        comparison.add_frame(ours, run.frame(noisy(ours, rng, 1e-6)))
    assert not errors(comparison)
    assert near_ties(comparison).keys() <= {"selection", "mask NMS", "labels", "track ids"}


FLIPS = {
    "a candidate left out": ("selection", {"candidates": [0, 2]}),
    "a candidate too many": ("selection", {"candidates": [0, 1, 2, 3]}),
    "candidates out of order": ("selection", {"candidates": [1, 0, 2]}),
    "no candidate": ("selection", {"candidates": [], "query": [], "labels": [], "ids": []}),
    "a mask left out": ("mask NMS", {"query": [0, 2]}),
    "masks out of order": ("mask NMS", {"query": [1, 0, 2]}),
    "a mask of no candidate": ("mask NMS", {"candidates": [0, 1, 2], "query": [0, 1, 2, 3]}),
    "another class": ("labels", {"labels": [0, 1, 1]}),
    "no class at all": ("labels", {"labels": [0, 1, CLASSES]}),
    "identities exchanged": ("track ids", {"ids": [1, 0, 2]}),
    "a new track for an old one": ("track ids", {"ids": [0, 1, 3]}),
    "a track lost": ("track ids", {"ids": [0, NO_TRACK, 2]}),
    "an identity twice": ("track ids", {"ids": [0, 1, 1]}),
    "an identity that never was": ("track ids", {"ids": [0, 1, 17]}),
}


@pytest.mark.parametrize("what", FLIPS)
def test_a_decision_far_from_its_threshold_is_an_error_of_its_part_and_frame(what: str) -> None:
    part, flips = FLIPS[what]
    comparison = flip(three(), **flips)
    assert errors(comparison) == {part: 1}, "one frame of one part"
    assert comparison.parts[part].errors[0].startswith("frame 1: queries [")
    assert not near_ties(comparison)


@pytest.mark.parametrize(
    ("what", "ids"), [("no track", [0, 1, NO_TRACK]), ("a number left out", [0, 1, 3]), ("twice", [0, 1, 1])]
)
def test_births_are_compared(what: str, ids: list[int]) -> None:
    comparison = compare_run([three()] * 3, ids=ids)
    assert errors(comparison) == {"track ids": 1}, what


def test_a_message_names_five_queries_at_most() -> None:
    found = Agreement()
    found.add("frame 3", 9, range(9), range(7))
    assert found.errors == ["frame 3: queries [0, 1, 2, 3, 4] …"]
    assert (found.compared, found.near_ties) == (9, 2)


def test_an_error_of_our_own_code_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """The other run's decision is possible, and ours is not."""
    frame = scene(Object(0.9), Object(0.8), Object(0.7, 1, 1, (1,), 1))
    monkeypatch.setattr(
        agreement, "select_queries", lambda scores, boxes, config: np.argsort(-scores.max(axis=1))[:3]
    )
    assert errors(flip(frame))["selection"] == 4
    monkeypatch.undo()
    monkeypatch.setattr(agreement, "suppress_masks", lambda masks, config: np.arange(len(masks)) != 0)
    assert errors(flip(frame)).keys() == {"mask NMS"}


# Selection ---------------------------------------------------------------------------------------------------


def score(output: NetworkOutput, query: int) -> float:
    return float(sigmoid(output.logits)[query].max())


@pytest.mark.parametrize(("above", "allowed"), [(TIGHT, True), (-TIGHT, True), (0.01, False), (-0.01, False)])
def test_a_score_on_the_threshold_may_fall_either_way(above: float, allowed: bool) -> None:
    frame = three()
    config = replace(CONFIG, select_score=score(frame, 2) - above)
    flipped = {"candidates": [0, 1] if above > 0 else [0, 1, 2]}
    comparison = flip(frame, config, **flipped)
    assert errors(comparison).keys() == (set() if allowed else {"selection"})
    assert near_ties(comparison) == ({"selection": 1} if allowed else {})


def box_pair(first: float = 0.9, second: float = 0.8, **of_second: object) -> NetworkOutput:
    """Return two boxes that overlap while their masks do not, and a third box elsewhere."""
    return scene(
        Object(first), Object(second, 0, 0, (1,), 1, width=0.09, **of_second), Object(0.7, 1, 9, (2,), 2)
    )


def overlap(output: NetworkOutput) -> float:
    corners = cxcywh_to_xyxy(output.boxes[:2])
    return float(box_iou(corners, corners)[0, 1])


@pytest.mark.parametrize(("above", "allowed"), [(TIGHT, True), (-TIGHT, True), (0.01, False), (-0.01, False)])
def test_a_box_overlap_on_the_threshold_may_fall_either_way(above: float, allowed: bool) -> None:
    frame = box_pair()
    config = replace(CONFIG, box_nms_iou=overlap(frame) - above)
    comparison = flip(frame, config, candidates=[0, 1, 2] if above > 0 else [0, 2])
    assert errors(comparison).keys() == (set() if allowed else {"selection"})
    assert near_ties(comparison) == ({"selection": 1} if allowed else {})


def test_the_better_of_two_boxes_on_the_threshold_may_not_fall() -> None:
    frame = box_pair()
    comparison = flip(frame, replace(CONFIG, box_nms_iou=overlap(frame)), candidates=[1, 2])
    assert errors(comparison) == {"selection": 1}


def test_equal_scores_may_suppress_each_other_but_not_both_stay() -> None:
    frame, config = box_pair(0.9, 0.9), replace(CONFIG, box_nms_iou=0.5)
    ours = select_queries(sigmoid(frame.logits), frame.boxes, config).tolist()
    swapped = [1 - ours[0], 2]
    assert near_ties(flip(frame, config, candidates=swapped)) == {"selection": 2}
    assert not errors(flip(frame, config, candidates=swapped))
    assert errors(flip(frame, config, candidates=[0, 1, 2])) == {"selection": 1}
    assert errors(flip(frame, config, candidates=[2])) == {"selection": 1}


def test_a_class_on_the_threshold_opens_class_wise_suppression() -> None:
    two_classes = box_pair(0.9, 0.8, other=(1, 0.8 + TIGHT / 10))
    config = replace(CONFIG, box_nms_iou=0.5)
    ours = select_queries(sigmoid(two_classes.logits), two_classes.boxes, config).tolist()
    assert ours == [0, 1, 2], "of two classes, so neither suppresses the other"
    assert not errors(flip(two_classes, config, candidates=[0, 2]))
    other_class = box_pair(0.9, 0.8, other=(1, 0.85))
    assert errors(flip(other_class, config, candidates=[0, 2])) == {"selection": 1}


def test_a_chain_of_suppressions_hangs_on_its_first_link() -> None:
    """The first may suppress the second, which then no longer suppresses the third: two near ties, no error."""
    boxes = [Object(0.9 - 0.1 * k, 0, 0, (k,), k) for k in range(3)]
    frame = scene(*boxes)
    frame.boxes[:3, 0] = [0.2, 0.26, 0.30]
    frame.boxes[:3, 2] = 0.2
    config = replace(CONFIG, box_nms_iou=overlap(frame) + TIGHT)
    ours = select_queries(sigmoid(frame.logits), frame.boxes, config).tolist()
    assert ours == [0, 1]
    comparison = flip(frame, config, candidates=[0, 2])
    assert not errors(comparison)
    assert near_ties(comparison) == {"selection": 2}
    assert errors(flip(frame, config, candidates=[0, 1, 2])) == {"selection": 1}
    assert errors(flip(frame, config, candidates=[0])) == {"selection": 1}, "nothing suppresses the third"


def test_the_best_of_a_frame_without_detections_may_be_either_of_two_equals() -> None:
    frame = three(0.05, 0.05 + TIGHT / 10, 0.02)
    assert near_ties(flip(frame, candidates=[0])) == {"selection": 2}
    assert not errors(flip(frame, candidates=[0]))
    assert errors(flip(frame, candidates=[2])) == {"selection": 1}
    assert errors(flip(frame, candidates=[1, 0])) == {"selection": 1}


def test_the_best_of_a_frame_may_itself_be_on_the_threshold() -> None:
    frame = three(0.1 - TIGHT, 0.1 - 2 * TIGHT, 0.02)
    assert not errors(flip(frame, candidates=[0, 1]))
    assert not errors(flip(frame, candidates=[1]))
    assert errors(flip(frame, candidates=[2])) == {"selection": 1}


# Mask NMS ----------------------------------------------------------------------------------------------------


def mask_pair() -> tuple[NetworkOutput, float]:
    """Return two overlapping masks and a third, with the IoU of the two."""
    frame = scene(
        Object(0.9, 0, 0, (0, 1, 2), 0), Object(0.8, 1, 9, (1, 2, 3), 1), Object(0.7, 2, 18, (6,), 2)
    )
    masks = decode_queries(frame, np.arange(2)).reshape(2, -1)
    return frame, float(mask_iou(masks > 0)[0, 1])


@pytest.mark.parametrize(("above", "allowed"), [(TIGHT, True), (-TIGHT, True), (0.01, False), (-0.01, False)])
def test_a_mask_overlap_on_the_threshold_may_fall_either_way(above: float, allowed: bool) -> None:
    frame, iou = mask_pair()
    comparison = flip(
        frame, replace(CONFIG, mask_nms_iou=iou - above), query=[0, 1, 2] if above > 0 else [0, 2]
    )
    assert errors(comparison).keys() == (set() if allowed else {"mask NMS"})
    assert near_ties(comparison).get("mask NMS", 0) == allowed


def test_the_better_of_two_masks_on_the_threshold_may_not_fall() -> None:
    frame, iou = mask_pair()
    assert errors(flip(frame, replace(CONFIG, mask_nms_iou=iou), query=[1, 2])) == {"mask NMS": 1}


def test_equal_scores_do_not_excuse_two_masks_that_cover_each_other() -> None:
    """The order is the other run's, so it is certain."""
    frame = scene(Object(0.9, 0, 0, (0,), 0), Object(0.9, 1, 9, (0,), 1), Object(0.7, 2, 18, (6,), 2))
    order = select_queries(sigmoid(frame.logits), frame.boxes, CONFIG).tolist()
    assert errors(flip(frame, query=order)) == {"mask NMS": 1}


def test_pixels_next_to_nothing_open_an_overlap() -> None:
    frame, iou = mask_pair()
    config = replace(CONFIG, mask_nms_iou=iou + 0.05)
    assert errors(flip(frame, config, query=[0, 2])) == {"mask NMS": 1}
    # The region of the second mask alone is now barely above 0, so it may be missing in one run.
    frame.mask_params[1, 2 + 3] = 0.3 + 1e-6
    assert not errors(flip(frame, config, query=[0, 2]))


# Labels ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("second", "allowed"), [(0.9 - TIGHT, True), (0.85, False)])
def test_two_classes_of_equal_score_may_be_either(second: float, allowed: bool) -> None:
    frame = scene(Object(0.9, 0, other=(3, second)), Object(0.8, 1, 9, (1,), 1))
    comparison = flip(frame, labels=[3, 1])
    assert errors(comparison) == ({} if allowed else {"labels": 1})
    assert near_ties(comparison) == ({"labels": 1} if allowed else {})


# Track ids ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("above", "allowed"), [(TIGHT, True), (-TIGHT, True), (0.01, False), (-0.01, False)])
@pytest.mark.parametrize("threshold", ["init_score", "new_track_score"])
def test_a_birth_on_the_threshold_may_fall_either_way(threshold: str, above: float, allowed: bool) -> None:
    frames = [three()] * 3 if threshold == "init_score" else [scene(Object()), *[three()] * 3]
    limit = score(three(), 1) - above
    born = [0, 1, 2] if limit < 0.7 else [0, 1, NO_TRACK] if above > 0 else [0, NO_TRACK, NO_TRACK]
    assert born[2] == NO_TRACK
    flipped = [0, NO_TRACK, NO_TRACK] if above > 0 else [0, 1, NO_TRACK]
    comparison = compare_run(frames, replace(CONFIG, **{threshold: limit}), ids=flipped)
    assert errors(comparison) == ({} if allowed else {"track ids": 1})
    assert near_ties(comparison) == ({"track ids": 1} if allowed else {})


def test_a_birth_on_the_threshold_renumbers_those_after_it() -> None:
    frame = three(0.9, 0.9 - 1e-5, 0.9 - 2e-5)
    config = replace(CONFIG, init_score=0.9)
    assert not errors(compare_run([frame] * 3, config, ids=[NO_TRACK, 0, 1]))
    assert not errors(compare_run([frame] * 3, config, ids=[0, NO_TRACK, 1]))
    assert errors(compare_run([frame] * 3, config, ids=[NO_TRACK, 1, 2])) == {"track ids": 1}


def test_the_other_threshold_excuses_nothing() -> None:
    """The threshold `init_score` is not used while there are tracks."""
    frame = three()
    config = replace(CONFIG, init_score=score(frame, 2), new_track_score=0.3)
    frames = [scene(Object()), *[frame] * 3]
    assert errors(compare_run(frames, config, ids=[0, 1, NO_TRACK])) == {"track ids": 1}


def test_a_score_on_the_birth_threshold_excuses_no_wrong_match() -> None:
    frame = three()
    config = replace(CONFIG, new_track_score=score(frame, 2))
    assert errors(flip(frame, config, ids=[0, 2, 1])) == {"track ids": 1}
    assert errors(flip(frame, config, ids=[0, 1, NO_TRACK])) == {"track ids": 1}


def test_two_tracks_that_are_equally_unlike_excuse_no_lost_birth() -> None:
    """The new object is equally dissimilar to both tracks, so its new track is certain."""
    old = [Object(0.9, 0, 0, (0,), 0), Object(0.8, 1, 9, (1,), 1)]
    new = scene(*old, Object(0.7, 2, 18, (2,), 2))
    frames = [scene(*old), new, new, new]
    assert errors(compare_run(frames, ids=[0, 1, NO_TRACK])) == {"track ids": 1}
    assert errors(compare_run(frames, ids=[0, 1, 1])) == {"track ids": 1}


def similarity(frame: NetworkOutput, before: NetworkOutput, query: int, track: int) -> float:
    n, m = len(frame.logits) - 1, len(before.logits) - 1
    return float(bi_softmax(frame.embeddings[:n], before.embeddings[:m])[query, track])


def blend(share: float) -> tuple[float, ...]:
    """Return an embedding between those of the first and the second object."""
    return tuple(float(x) for x in 4 * ((1 - share) * np.eye(WIDTH)[0] + share * np.eye(WIDTH)[1]))


@pytest.mark.parametrize(("above", "allowed"), [(TIGHT, True), (-TIGHT, True), (0.01, False), (-0.01, False)])
def test_a_similarity_on_the_threshold_may_fall_either_way(above: float, allowed: bool) -> None:
    before = three()
    after = scene(
        Object(0.9, 0, 0, (0,), embedding=blend(0.4)), *(Object(0.8 - 0.1 * k, k, k, (k,), k) for k in (1, 2))
    )
    config = replace(CONFIG, match_score=similarity(after, before, 0, 0) - above)
    flipped = [3, 1, 2] if above > 0 else [0, 1, 2]
    comparison = compare_run([before, after, after, after], config, ids=flipped)
    assert errors(comparison) == ({} if allowed else {"track ids": 1})
    assert near_ties(comparison) == ({"track ids": 1} if allowed else {})


@pytest.mark.parametrize(("share", "allowed"), [(0.5, True), (0.4, False)])
def test_of_two_equally_similar_tracks_either_may_be_continued(share: float, allowed: bool) -> None:
    before = scene(Object(), Object(0.8, 1, 9, (1,), 1))
    after = scene(Object(0.9, embedding=blend(share)))
    config = replace(CONFIG, match_score=0.3)
    comparison = compare_run([before, after, after, after], config, ids=[1])
    assert errors(comparison) == ({} if allowed else {"track ids": 1})


def test_a_track_seen_more_often_is_preferred_and_that_is_compared() -> None:
    """Both tracks are candidates of the only detection; the older one has a higher weight."""
    before, both = scene(Object()), scene(Object(), Object(0.8, 1, 9, (1,), 1))
    after = scene(Object(0.9, embedding=blend(0.6)))
    frames = [before, before, before, both, after, after, after]
    config = replace(CONFIG, match_score=0.4)
    assert not errors(compare_run(frames, config))
    assert errors(compare_run(frames, config, ids=[1])) == {"track ids": 1}
    unweighted = replace(config, frame_weight=False)
    assert errors(compare_run(frames, unweighted, ids=[0])) == {"track ids": 1}


def test_a_candidate_on_the_threshold_may_change_every_weight() -> None:
    """The only detection of a frame has a similarity of a half even to a dissimilar track."""
    old, both = scene(Object()), scene(Object(), Object(0.8, 1, 9, (1,), 1))
    alone = scene(Object(0.9, look=1))
    frames = [*[old] * 6, both, alone, alone, alone]
    unlike = similarity(alone, both, 0, 0)
    config = replace(CONFIG, match_score=unlike - TIGHT)
    comparison = compare_run(frames, config, ids=[1])
    assert not errors(comparison)
    assert near_ties(comparison) == {"track ids": 1}
    assert errors(compare_run(frames, replace(config, match_score=unlike - 0.01), ids=[1])) == {
        "track ids": 1
    }
    assert errors(compare_run(frames, replace(config, match_score=unlike + 0.01), ids=[0])) == {
        "track ids": 1
    }


MULTI_CUE = replace(CONFIG, matching="multi_cue")


@pytest.mark.parametrize("ids", [[1, 0, 2], [0, 1, NO_TRACK], [0, 1, 3], [0, 1, 1]])
def test_multi_cue_matches_are_compared(ids: list[int]) -> None:
    assert not errors(flip(three(), MULTI_CUE))
    assert errors(flip(three(), MULTI_CUE, ids=ids)) == {"track ids": 1}


@pytest.mark.parametrize("ids", [[1, 0, 2], [0, 1, NO_TRACK], [0, 1, 3]])
def test_iou_matches_are_compared(ids: list[int]) -> None:
    config = replace(CONFIG, matching="iou", match_score=0.3)
    assert not errors(flip(three(), config))
    assert errors(flip(three(), config, ids=ids)) == {"track ids": 1}


@pytest.mark.parametrize(("second", "allowed"), [(0.9, True), (0.6, False)])
def test_of_two_that_ask_for_one_track_the_better_has_it(second: float, allowed: bool) -> None:
    before = scene(Object(0.9, 0, 0, (0,), 0))
    twins = scene(Object(0.9, 0, 0, (1,), 0), Object(second, 0, 0, (2,), 0, width=0.1))
    config = replace(MULTI_CUE, box_nms_iou=1.0)
    ours = Run(config)
    ours.frame(before)
    ids = ours.frame(twins).ids.tolist()
    assert sorted(ids) == [0, 1]
    comparison = compare_run([before, twins, twins, twins], config, ids=ids[::-1])
    assert errors(comparison).keys() == (set() if allowed else {"track ids"})


def test_a_cue_on_the_edge_of_a_new_track_may_fall_either_way() -> None:
    before = scene(Object(0.9, 0, 0, (0,), 0))
    after = scene(Object(0.9, 0, 63, (0,), embedding=(1e-6,) * WIDTH))
    pairs = (after.embeddings[:1], before.embeddings[:1]), (after.boxes[:1], before.boxes[:1])
    labels = np.zeros(1, np.int64), np.zeros(1, np.int64)
    cues = multi_cue(*pairs, labels, np.array([0.9], np.float32))
    assert abs(cues[0, 0] - cues[0, 1]) < NEAR
    ours = Run(MULTI_CUE)
    ours.frame(before)
    flipped = [1 - int(ours.frame(after).ids[0])]
    comparison = compare_run([before, after, after, after], MULTI_CUE, ids=flipped)
    assert not errors(comparison)
    assert near_ties(comparison) == {"track ids": 1}
