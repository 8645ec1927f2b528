"""Results of frames and videos, compared with a literal implementation of the published procedure."""

import json
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from idol_runtime.config import Category, VideoConfig
from idol_runtime.errors import ConfigError, MissingDependencyError, OutputError
from idol_runtime.preprocess import Placement
from idol_runtime.tracking.crops import crop_masks
from idol_runtime.tracking.results import FrameResult, VideoResult, write_results

SIZE = (6, 10)
PLACEMENT = Placement(frame=SIZE, network=SIZE, content=SIZE)
CLASSES = ("cat", "dog", "cow")
CATEGORIES = tuple(Category(name, i) for name, i in zip(CLASSES, (4, 1, 9), strict=True))


def frame_result(
    index: int, seen: dict[int, np.ndarray], masks: dict[int, np.ndarray] | None = None
) -> FrameResult:
    """Build a result from class scores by track id; by default, each mask encodes its track and frame."""
    ids = np.array(list(seen), np.int64)
    scores = np.array(list(seen.values()), np.float32).reshape(len(ids), len(CLASSES))
    drawn = np.zeros((len(ids), *SIZE), bool)
    for row, track in enumerate(ids.tolist()):
        drawn[row] = masks[track] if masks else mask_of(track, index)
    result = FrameResult(
        index=index,
        ids=ids,
        labels=scores.argmax(axis=1).astype(np.int64),
        scores=scores.max(axis=1, initial=0),
        class_scores=scores,
        boxes_xyxy=np.zeros((len(ids), 4), np.float32),
        mask_logits=np.zeros((len(ids), 2, 3), np.float32),
        placement=PLACEMENT,
        class_names=CLASSES,
    )
    result.__dict__["crops"] = crop_masks(drawn)  # instead of the computed property
    return result


def mask_of(track: int, frame: int) -> np.ndarray:
    mask = np.zeros(SIZE, bool)
    mask.flat[(7 * track + frame) % mask.size] = True
    mask[-1, -1] = True
    return mask


Frames = list[dict[int, np.ndarray]]


@dataclass
class Expected:
    track: int
    label: int
    score: np.float32
    frames: list[int]


def published(frames: Frames, config: VideoConfig) -> list[Expected]:
    """Apply the published procedure: for each id a list with one entry per frame, None where it was not seen."""
    held: dict[int, list[np.ndarray | None]] = {}
    for i, seen in enumerate(frames):
        for track, scores in seen.items():
            held.setdefault(track, [None] * i).append(scores)
        for track, entries in held.items():
            if track not in seen:
                entries.append(None)
        if i > 8:
            for track in list(held):
                entries = held[track]
                filled = sum(entry is not None for entry in entries)
                if entries[-1] is None and entries[-2] is None and filled < 3:
                    del held[track]
    found = []
    for track, entries in held.items():
        rows = np.stack([entry for entry in entries if entry is not None])
        if config.temporal_score == "max":
            scores = rows.max(axis=0)
        else:
            scores = rows.astype(np.float64).mean(axis=0).astype(np.float32)
        seen_in = [i for i, entry in enumerate(entries) if entry is not None]
        labels = [k for k in range(len(CLASSES)) if scores[k] > np.float32(config.class_score)]
        for k in labels if config.multi_class else [int(scores.argmax())]:
            found.append(Expected(track, k, scores[k], seen_in))
    return found


def collect(frames: Frames, config: VideoConfig) -> VideoResult:
    video = VideoResult(config)
    for i, seen in enumerate(frames):
        video.add(frame_result(i, seen))
    return video


def assert_as_published(frames: Frames, config: VideoConfig) -> VideoResult:
    video, expected = collect(frames, config), published(frames, config)
    found = video.instances()
    assert [(i.track, i.label) for i in found] == [(e.track, e.label) for e in expected]
    for instance, e in zip(found, expected, strict=True):
        # A running sum and a mean over rows differ in the last bit of a float32 at most.
        assert instance.score == pytest.approx(float(e.score), rel=1e-6)
        assert sorted(instance.masks) == e.frames
    return video


# Scores in steps of 1/64 add up exactly, so that rounding moves no mean across the threshold.
score_rows = st.lists(st.integers(0, 64), min_size=3, max_size=3).map(
    lambda r: np.float32(r) / np.float32(64)
)
videos = st.lists(st.dictionaries(st.integers(0, 5), score_rows, max_size=4), min_size=1, max_size=24)
sparse = st.lists(
    st.one_of(st.just({}), st.dictionaries(st.integers(0, 3), score_rows, max_size=1)),
    min_size=8,
    max_size=30,
)
configs = st.builds(
    VideoConfig,
    class_score=st.sampled_from([0.05, 0.25, 0.5, 0.0]),
    multi_class=st.booleans(),
    temporal_score=st.sampled_from(["mean", "max"]),
)


@settings(max_examples=150, deadline=None)
@given(frames=st.one_of(videos, sparse), config=configs)
def test_any_video_equals_the_published_procedure(frames: Frames, config: VideoConfig) -> None:
    assert_as_published(frames, config)


A = np.float32([0.9, 0.1, 0.0])


def at(*frames: int, length: int, other: bool = True) -> Frames:
    """Return frames with track 5 in the given ones and track 1 in all."""
    return [{**({1: A} if other else {}), **({5: A} if i in frames else {})} for i in range(length)]


@pytest.mark.parametrize(
    ("seen", "length", "stays"),
    [
        ((0,), 9, True),  # frame 8 is not checked
        ((0,), 10, False),  # frame 9, the tenth, is the first
        ((0, 1), 10, False),
        ((0, 1, 2), 30, True),  # seen three times
        ((8,), 10, True),  # one empty frame only
        ((7,), 10, False),
        ((9,), 10, True),
        ((20,), 22, True),
        ((20,), 23, False),  # also at the end of the last frame
        ((0, 8), 10, True),
        ((0, 8), 11, False),
        ((0, 8, 10), 14, True),  # a third sighting comes in time
    ],
    ids=str,
)
def test_when_a_short_track_is_dropped(seen: tuple[int, ...], length: int, stays: bool) -> None:
    video = assert_as_published(at(*seen, length=length), VideoConfig())
    assert (5 in video.tracks) == stays
    assert 1 in video.tracks


def test_a_dropped_track_comes_back_at_the_end_without_its_history() -> None:
    frames = [{5: A, 1: A}, *[{1: A}] * 11, {1: A, 2: A, 5: A}, {1: A, 2: A, 5: A}]
    video = assert_as_published(frames, VideoConfig())
    assert list(video.tracks) == [1, 2, 5]
    assert list(video.tracks[5]) == [12, 13]


def test_one_class_has_no_threshold() -> None:
    frames = [{0: np.float32([0.01, 0.03, 0.02])}]
    assert collect(frames, VideoConfig()).instances() == []
    (only,) = collect(frames, VideoConfig(multi_class=False)).instances()
    assert (only.label, only.score) == (1, pytest.approx(0.03))


def test_the_threshold_is_compared_in_float32() -> None:
    exactly = np.float32([0.05, np.nextafter(np.float32(0.05), np.float32(1)), 0])
    assert [i.label for i in collect([{0: exactly}], VideoConfig(class_score=0.05)).instances()] == [1]


def test_mean_and_max_over_the_frames_where_it_was_seen() -> None:
    frames = [{0: np.float32([0.2, 0.6, 0])}, {}, {0: np.float32([0.4, 0.2, 0])}]
    mean = {i.label: i.score for i in collect(frames, VideoConfig()).instances()}
    best = {i.label: i.score for i in collect(frames, VideoConfig(temporal_score="max")).instances()}
    assert mean == {0: pytest.approx(0.3), 1: pytest.approx(0.4)}
    assert best == {0: pytest.approx(0.4), 1: pytest.approx(0.6)}


def test_an_empty_video() -> None:
    video = VideoResult(VideoConfig())
    assert video.instances() == []
    assert video.submission(3, CATEGORIES) == []
    video.add(frame_result(0, {}))
    assert video.submission(3, CATEGORIES) == []


def test_two_sizes_are_two_videos() -> None:
    video = collect([{0: A}], VideoConfig())
    other = replace(frame_result(1, {}), placement=replace(PLACEMENT, frame=(7, 7)))
    with pytest.raises(ConfigError, match="use a VideoResult each"):
        video.add(other)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools on numpy 2
def test_submission_format() -> None:
    coco = pytest.importorskip("pycocotools.mask")
    frames = [{}, {7: A, 3: A}, {7: A}, {}]
    entries = collect(frames, VideoConfig()).submission(42, CATEGORIES)
    assert json.loads(json.dumps(entries)) == entries
    assert [(e["video_id"], e["category_id"]) for e in entries] == [(42, 4), (42, 1), (42, 4), (42, 1)]
    for entry, track in zip(entries, (7, 7, 3, 3), strict=True):
        assert set(entry) == {"video_id", "score", "category_id", "segmentations"}
        assert type(entry["score"]) is float
        assert len(entry["segmentations"]) == 4
        for i, rle in enumerate(entry["segmentations"]):
            assert rle["size"] == list(SIZE)
            assert type(rle["counts"]) is str
            mask = coco.decode({**rle, "counts": rle["counts"].encode()})
            expected = mask_of(track, i) if track in frames[i] else np.zeros(SIZE, bool)
            assert np.array_equal(mask, expected)


def test_written_results_are_whole(tmp_path: Path) -> None:
    entries = collect([{7: A}], VideoConfig()).submission(1, CATEGORIES)
    path = tmp_path / "results.json"
    write_results(path, iter(entries))
    assert json.loads(path.read_text()) == entries
    with pytest.raises(TypeError):
        write_results(path, [{"score": object()}])  # type: ignore[list-item]
    assert json.loads(path.read_text()) == entries
    assert [p.name for p in tmp_path.iterdir()] == ["results.json"]
    with pytest.raises(OutputError, match="does not exist"):
        write_results(tmp_path / "no" / "results.json", entries)
    write_results(path, [])
    assert path.read_text() == "[]"


def test_masks_in_a_file_give_the_same_results() -> None:
    rng = np.random.default_rng(0)
    frames = [
        {int(i): rng.random(3, np.float32) for i in rng.choice(9, rng.integers(0, 6), replace=False)}
        for _ in range(60)
    ]
    for config in (VideoConfig(), VideoConfig(class_score=0.5, temporal_score="max")):
        with tempfile.TemporaryFile() as spool:
            video = VideoResult(config, spool)
            for i, seen in enumerate(frames):
                video.add(frame_result(i, seen))
            expected = collect(frames, config)
            assert video.submission(3, CATEGORIES) == expected.submission(3, CATEGORIES) != []
            assert {i: dict(masks) for i, masks in video.tracks.items()} == expected.tracks
            (masks, *_) = video.tracks.values()
            assert masks[next(iter(masks))]
            assert masks.get(60) is None


def test_above_keeps_everything_of_what_stays() -> None:
    rows = {4: np.float32([0.5, 0, 0]), 2: np.float32([0, 0.7, 0]), 9: np.float32([0, 0, 0.2])}
    result = frame_result(3, rows)
    kept = result.above(0.5)
    assert kept.ids.tolist() == [4, 2]
    assert kept.labels.tolist() == [0, 1]
    assert (kept.index, kept.placement, kept.class_names) == (3, PLACEMENT, CLASSES)
    for name in ("scores", "class_scores", "boxes_xyxy", "mask_logits"):
        assert np.array_equal(getattr(kept, name), getattr(result, name)[:2])
    assert kept.masks.shape == (2, *SIZE)
    assert len(result.above(1.0)) == 0
    assert len(result) == 3


def test_to_supervision() -> None:
    supervision = pytest.importorskip("supervision", reason="supervision is not installed")
    for seen in ({4: A, 2: A[::-1].copy()}, {}):
        result = frame_result(0, seen)
        found: Any = result.to_supervision()
        assert isinstance(found, supervision.Detections)
        assert len(found) == len(seen)
        assert found.tracker_id.tolist() == list(seen)
        assert np.array_equal(found.mask, result.masks)
        assert np.array_equal(found.confidence, result.scores)
        assert found.data["class_name"].tolist() == ["cat", "cow"][: len(seen)]


def test_to_supervision_names_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "supervision", None)
    with pytest.raises(MissingDependencyError, match="needs supervision") as caught:
        frame_result(0, {}).to_supervision()
    project = Path(__file__).parents[3] / "pyproject.toml"
    assert f"\n{caught.value.extra} = [" in project.read_text(), "the extra that the message names must exist"
