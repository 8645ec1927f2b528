"""The tracker: equal to the published one in every setting, and to a scalar reference on random streams."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from idol_runtime.config import AssociationConfig
from idol_runtime.tracking.association import NO_TRACK, MemoryBank, Tracker, bi_softmax, multi_cue
from idol_runtime.tracking.detection import suppress
from idol_runtime.tracking.masks import mask_iou

YTVIS = AssociationConfig()
SETTINGS = {
    "ytvis": YTVIS,
    "ovis": replace(YTVIS, mask_nms_iou=0.3, new_track_score=0.3),
    "no_tw_fw": replace(YTVIS, temporal="momentum", frame_weight=False),
    "fw_only": replace(YTVIS, temporal="momentum"),
    "long_no_fw": replace(YTVIS, frame_weight=False),
    "long_no_temporal": replace(YTVIS, temporal="score"),
}


@pytest.mark.parametrize("setting", SETTINGS)
def test_ids_equal_the_published_tracker(reference: Path, setting: str) -> None:
    unit = np.load(reference / "unit_tracker.npz")
    config = SETTINGS[setting]
    tracker = Tracker(config)
    for t, count in enumerate(unit["count"]):
        order = slice(0, count)
        expected = unit[f"ids_{setting}"][t, order]
        masks = unit["masks"][t, order].reshape(count, -1) > 0
        keep = suppress(mask_iou(masks), config.mask_nms_iou)
        assert np.array_equal(keep, expected != -9), f"mask NMS of frame {t}"
        ids = tracker.update(
            *(unit[name][t, order][keep] for name in ("scores", "labels", "boxes", "embeds"))
        )
        assert np.array_equal(ids, np.maximum(expected[keep], NO_TRACK)), f"frame {t}"
    assert tracker.bank is not None
    assert np.array_equal(np.sort(tracker.bank.ids), np.sort(unit[f"memo_ids_{setting}"]))


def slow_ids(
    config: AssociationConfig, frames: list[dict[str, np.ndarray]], times: list[float]
) -> list[list[int]]:
    """Associate as docs/idol.md §4 describes it: one scalar at a time, without any shortcut."""
    tracks: dict[int, dict[str, list]] = {}
    next_id, out, clock = 0, [], 0.0
    for now, frame in enumerate(frames):
        clock += max(0.0, times[now] - times[now - 1]) if now else 0.0
        scores, embeddings = frame["scores"].astype(float), frame["embeddings"].astype(float)
        n = len(scores)
        ids = [NO_TRACK] * n
        fresh = not tracks
        if n and tracks:
            keys = list(tracks)
            rep = []
            for key in keys:
                held = tracks[key]["e"][-config.memory_length :]
                s = tracks[key]["s"][-config.memory_length :]
                w = {
                    "published": [s[t] + (t + 1) / len(held) for t in range(len(held))],
                    "score": s,
                    "paper": [config.tau + config.memory_length / (len(held) - t) for t in range(len(held))],
                }[config.temporal]
                rep.append(sum(wi * e for wi, e in zip(w, held, strict=True)) / sum(w))
            f = embeddings @ np.stack(rep).T
            p, q = np.exp(f - f.max(1, keepdims=True)), np.exp(f - f.max(0, keepdims=True))
            sim = (p / p.sum(1, keepdims=True) + q / q.sum(0, keepdims=True)) / 2
            for i in range(n):
                row = sim[i].copy()
                above = [j for j in range(len(keys)) if row[j] > 0.5]
                if config.frame_weight and len(above) > 1:
                    seen = [len(tracks[keys[j]]["e"]) for j in above]
                    for j in range(len(keys)):
                        row[j] *= len(tracks[keys[j]]["e"]) if j in above else np.mean(seen)
                j = int(row.argmax())
                if row[j] > 0.5:
                    ids[i] = keys[j]
                    sim[:, j] = 0
        for i in range(n):
            if ids[i] == NO_TRACK and scores[i] > (config.init_score if fresh else config.new_track_score):
                ids[i] = next_id
                next_id += 1
            if ids[i] != NO_TRACK:
                track = tracks.setdefault(ids[i], {"e": [], "s": [], "t": [], "c": []})
                for k, v in (("e", embeddings[i]), ("s", scores[i]), ("t", now), ("c", clock)):
                    track[k].append(v)
        if n:
            tracks = {
                k: v
                for k, v in tracks.items()
                if now - v["t"][-1] < config.max_age or clock - v["c"][-1] < (config.max_age_s or 0)
            }
        out.append(ids)
    return out


def random_stream(
    seed: int, frames: int = 40, identities: int = 6, width: int = 8, fewest: int = 0
) -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(seed)
    base = rng.normal(size=(identities, width)) * 0.8  # moderate: (1 + 1e-8) / 2 is one half in float32
    out = []
    for _ in range(frames):
        seen = rng.permutation(identities)[: rng.integers(fewest, identities + 1)]
        scores = np.sort(rng.uniform(0.11, 1, len(seen)))[::-1]
        out.append(
            {
                "scores": scores.astype(np.float32),
                "labels": rng.integers(0, 3, len(seen)),
                "boxes": rng.uniform(0.1, 0.4, (len(seen), 4)).astype(np.float32),
                "embeddings": (base[seen] + rng.normal(size=(len(seen), width)) * 0.3).astype(np.float32),
            }
        )
    return out


@given(
    seed=st.integers(0, 2**32 - 1),
    temporal=st.sampled_from(["published", "paper", "score"]),
    frame_weight=st.booleans(),
    memory_length=st.integers(1, 4),
    max_age=st.integers(1, 6),
    max_age_s=st.sampled_from([None, 0.0, 0.3, 0.9]),
)
def test_equals_a_scalar_reference_on_random_streams(
    seed: int, temporal: str, frame_weight: bool, memory_length: int, max_age: int, max_age_s: float | None
) -> None:
    config = AssociationConfig(
        temporal=temporal,
        frame_weight=frame_weight,
        memory_length=memory_length,
        max_age=max_age,
        max_age_s=max_age_s,
    )
    stream = random_stream(seed)
    steps = np.random.default_rng(seed).choice([-1.0, 0.0, 0.125, 0.25], len(stream), p=[0.1, 0.1, 0.4, 0.4])
    times = (1000 + steps.cumsum()).tolist()
    tracker = Tracker(config)
    ids = [tracker.update(**frame, time_s=t).tolist() for frame, t in zip(stream, times, strict=True)]
    assert ids == slow_ids(config, stream, times)


@pytest.mark.parametrize("matching", ["embedding", "multi_cue", "iou"])
def test_an_identity_is_given_once_a_frame_and_never_returns_after_expiry(matching: str) -> None:
    tracker = Tracker(AssociationConfig(matching=matching, max_age=4))
    last_seen: dict[int, int] = {}
    for now, frame in enumerate(random_stream(5, frames=200, fewest=1)):
        ids = tracker.update(**frame)
        given_ids = ids[ids != NO_TRACK].tolist()
        assert len(set(given_ids)) == len(given_ids)
        for i in given_ids:
            assert now - last_seen.get(i, now) <= 4
            last_seen[i] = now
    assert len(last_seen) > 10


@pytest.mark.parametrize("dropped", [0, 3])
@pytest.mark.parametrize(("absent", "same"), [(57, True), (63, False)])
def test_dropped_frames_do_not_change_the_life_of_a_track(dropped: int, absent: int, same: bool) -> None:
    """At 30 fps, a track of a camera lives for two seconds, with or without every third frame."""
    tracker = Tracker(YTVIS.for_live())
    embeddings, boxes = np.float32([[5, 0], [0, 5]]), np.full((2, 4), 0.5, np.float32)
    scores, labels = np.float32([0.9, 0.8]), np.int64([0, 0])
    ids: list[int] = []
    for index in range(absent + 20):
        if dropped and index % dropped == 2:
            continue
        rows = slice(0, 1 if 10 <= index < 10 + absent else 2)  # the second object is absent
        seen = tracker.update(
            scores[rows], labels[rows], boxes[rows], embeddings[rows], time_s=index / 30
        ).tolist()
        ids += seen[1:]
    assert (len(set(ids)) == 1) == same


def test_tracks_beyond_the_limit_are_evicted_by_the_time_they_were_seen() -> None:
    tracker = Tracker(AssociationConfig(max_age=10**9, max_tracks=5, match_score=1.0))  # nothing matches
    one = {"scores": np.float32([0.9]), "labels": np.int64([0]), "boxes": np.zeros((1, 4), np.float32)}
    ids = [tracker.update(**one, embeddings=np.float32([[t, 1]])).tolist() for t in range(1000)]
    assert ids == [[t] for t in range(1000)]
    assert tracker.bank is not None
    assert tracker.bank.ids.tolist() == [995, 996, 997, 998, 999]
    assert tracker.evicted == 995
    seen = np.int64([995])  # seen again, so that 996 is the oldest
    tracker.commit(seen, **one, embeddings=np.float32([[1, 1]]))
    tracker.commit(np.int64([2**40]), **one, embeddings=np.float32([[1, 1]]))
    assert tracker.bank.ids.tolist() == [995, 997, 998, 999, 2**40]
    assert tracker.update(**one, embeddings=np.float32([[1, 1]])).tolist() == [2**40 + 1]


def test_forget_deletes_tracks_and_uses_no_identity_again() -> None:
    stream = random_stream(3, frames=5, fewest=2)
    tracker, other = Tracker(YTVIS), Tracker(YTVIS)
    before = [tracker.update(**frame) for frame in stream]
    tracker.forget()
    after = [tracker.update(**frame) for frame in stream]
    last = max(ids.max() for ids in before)
    expected = [other.update(**frame) for frame in stream]
    for ids, fresh in zip(after, expected, strict=True):
        assert ids.tolist() == np.where(fresh == NO_TRACK, NO_TRACK, fresh + last + 1).tolist()


def test_paper_weights_favour_the_newest() -> None:
    config = AssociationConfig(temporal="paper", memory_length=3, tau=0.5)
    bank = MemoryBank(config, width=1)
    one = np.ones((1, 4), np.float32)
    score, label, row = np.float32([0.9]), np.int64([0]), np.int64([0])
    bank.add(np.int64([7]), (0, 0.0), score, label, one, np.float32([[100.0]]))
    for frame, value in enumerate((1.0, 2.0, 4.0), start=1):  # the fourth embedding replaces 100
        bank.update(row, (frame, 0.0), score, label, one, np.float32([[value]]))
    newest_first = np.array([0.5 + 3 / 1, 0.5 + 3 / 2, 0.5 + 3 / 3])
    assert bank.embeddings() == pytest.approx((newest_first @ [4, 2, 1]) / newest_first.sum(), rel=1e-6)


def test_bi_softmax_is_one_for_a_clear_pair() -> None:
    eye = np.eye(3, dtype=np.float32) * 20
    assert bi_softmax(eye, eye) == pytest.approx(np.eye(3), abs=1e-6)


def test_multi_cue_is_mask_track_rcnn() -> None:
    embeddings = np.float32([[1, 0]]), np.float32([[2, 0], [0, 1]])
    box = np.float32([[0.5, 0.5, 0.2, 0.2]])
    boxes = box, np.concatenate([box, box + np.float32([[0.1, 0, 0, 0]])])
    cues = multi_cue(embeddings, boxes, (np.int64([4]), np.int64([4, 5])), np.float32([0.8]))
    log_p = np.array([0, 2, 0]) - np.log(np.exp([0, 2, 0]).sum())
    iou = np.array([0, 1, 0.1 * 0.2 / (2 * 0.04 - 0.1 * 0.2)])
    same = np.array([1, 1, 0])
    assert cues[0] == pytest.approx(log_p + np.log(0.8) + 2 * iou + 10 * same, rel=1e-5)


def test_multi_cue_keeps_classes_apart_and_starts_anew() -> None:
    tracker = Tracker(AssociationConfig(matching="multi_cue"))
    box, embedding = np.float32([[0.5, 0.5, 0.2, 0.2]]), np.float32([[3, 0]])
    first = tracker.update(np.float32([0.9]), np.int64([1]), box, embedding)
    again = tracker.update(np.float32([0.9]), np.int64([1]), box, embedding)
    other = tracker.update(np.float32([0.9]), np.int64([2]), box, embedding * np.float32(0.5))
    assert (first, again) == ([0], [0])
    assert other == [1]


def test_iou_matches_boxes_of_one_class_whatever_they_look_like() -> None:
    config = AssociationConfig(matching="iou", match_score=0.3)
    tracker = Tracker(config)
    boxes = np.float32([[0.3, 0.5, 0.2, 0.2], [0.7, 0.5, 0.2, 0.2]])
    seen, labels = np.float32([0.9, 0.8]), np.int64([4, 4])
    embeddings = np.float32([[5, 0], [0, 5]])
    assert tracker.update(seen, labels, boxes, embeddings).tolist() == [0, 1]
    # Boxes shifted by half a width have an IoU of a third; the embeddings suggest the opposite match.
    moved = boxes + np.float32([0.1, 0, 0, 0])
    assert tracker.update(seen, labels, moved, embeddings[::-1]).tolist() == [0, 1]
    # The first has another class, the second is too far away.
    assert tracker.update(
        seen, np.int64([5, 4]), moved + np.float32([0, 0.15, 0, 0]), embeddings
    ).tolist() == [2, 3]


def test_reset_starts_a_new_video() -> None:
    tracker = Tracker(YTVIS)
    stream = random_stream(3, frames=5)
    ids = [tracker.update(**frame).tolist() for frame in stream]
    tracker.reset()
    assert [tracker.update(**frame).tolist() for frame in stream] == ids
