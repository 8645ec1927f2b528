"""Tests of states: a stream that is continued has the results of one that went on, and no file does harm."""

import hashlib
import os
import tracemalloc
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from random import Random

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fuzzing.mutate import mutate_json
from idol_runtime.config import AssociationConfig, Category, Preprocessing, StreamConfig
from idol_runtime.errors import OutputError, StateError
from idol_runtime.state import Position, StreamState, load_state, save_state
from idol_runtime.stream import Stream
from idol_runtime.tracking.association import MemoryBank
from idol_runtime.tracking.detection import NetworkOutput

CONFIG = StreamConfig((Category("cat", 1), Category("dog", 2)), Preprocessing(short_side=None))
POSITION = Position("rtsp://door/live", live=True, stride=2, index=48, time_s=1.5, epoch=3)


def stream(weights: str = "a" * 64, **association: object) -> Stream:
    config = replace(CONFIG, association=AssociationConfig(mask_nms_iou=0.9, **association))  # type: ignore[arg-type]
    return Stream(config, None, weights=weights)


def step(tracked: Stream, seed: int, t: int) -> tuple[int, list[int]]:
    """Track frame t of a random stream, in which some of six objects are seen."""
    rng = np.random.default_rng([seed, t])
    arrays = (
        3 * rng.normal(size=(6, 2)) - 1,
        rng.uniform(0.2, 0.6, (6, 4)),
        1.5 * np.eye(6, 8) + 0.4 * rng.normal(size=(6, 8)),
        rng.normal(size=(8, 4, 8)),
        rng.normal(size=(6, 169)),
        rng.uniform(0, 32, (6, 2)),
    )
    prepared = tracked.prepare(np.zeros((32, 64, 3), np.uint8))
    output = NetworkOutput(*(array.astype(np.float32) for array in arrays))
    result = tracked.track(prepared, output, 0.1 * t)
    return result.index, result.ids.tolist()


def state_after(frames: int) -> StreamState:
    made = stream()
    for t in range(frames):
        step(made, 0, t)
    return replace(made.snapshot(), position=POSITION)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    save_state(tmp_path / "a.state", state_after(20))
    return tmp_path / "a.state"


@settings(max_examples=40)
@given(
    seed=st.integers(0, 2**32 - 1),
    stop=st.integers(0, 30),
    matching=st.sampled_from(["embedding", "multi_cue", "iou"]),
    temporal=st.sampled_from(["published", "paper", "score", "momentum"]),
    memory_length=st.integers(1, 4),
    max_age_s=st.sampled_from([None, 0.5]),
    max_tracks=st.sampled_from([3, 10_000]),
)
def test_a_restored_stream_goes_on_as_one_that_was_not_stopped(
    tmp_path_factory: pytest.TempPathFactory, seed: int, stop: int, **association: object
) -> None:
    path = tmp_path_factory.getbasetemp() / "a.state"
    whole, first, second = (stream(max_age=3, **association) for _ in range(3))
    expected = [step(whole, seed, t) for t in range(40)]
    ids = [step(first, seed, t) for t in range(stop)]
    state = first.snapshot()
    step(first, seed, stop)  # a snapshot is a copy
    save_state(path, state)
    second.restore(load_state(path))
    assert ids + [step(second, seed, t) for t in range(stop, 40)] == expected


@pytest.mark.parametrize("frames", [0, 20])
def test_everything_is_read_as_it_was_written(tmp_path: Path, frames: int) -> None:
    state, path = state_after(frames), tmp_path / "a.state"
    save_state(path, state)
    again = load_state(path)
    tracks, read = state.tracker.tracks, again.tracker.tracks
    assert tracks.keys() == read.keys()
    assert all(np.array_equal(tracks[name], read[name]) for name in tracks)
    bare = [replace(s, tracker=replace(s.tracker, tracks={})) for s in (state, again)]
    assert msgspec.to_builtins(bare[0]) == msgspec.to_builtins(bare[1])
    assert bool(tracks) == bool(frames)
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.state"]


@pytest.mark.parametrize(
    ("other", "expected"),
    [
        (
            stream("b" * 64),
            "^the state belongs to a bundle with weights aaaaaaaaaaaa, this one has bbbbbbbbbbbb; use ",
        ),
        (stream(""), "weights aaaaaaaaaaaa, this one has unknown"),
        (
            stream(match_score=0.4),
            r"made with association\.match_score=0\.5, and this run has 0\.4; repeat the setting",
        ),
        (stream(max_age_s=3.0), r"association\.max_age_s=None, and this run has 3\.0"),
    ],
    ids=["bundle", "unknown", "setting", "life"],
)
def test_a_state_of_something_else_is_refused(path: Path, other: Stream, expected: str) -> None:
    with pytest.raises(StateError, match=expected):
        other.restore(load_state(path))
    assert step(other, 0, 0)[0] == 0, "nothing has changed"


def test_a_full_disk_leaves_the_earlier_state(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutputError, match=r"cannot write .*a\.state: No space left on device"):
        save_state(path, state_after(1))
    assert load_state(path).index == 20
    assert len(list(path.parent.iterdir())) == 1


def refusal(path: Path, data: bytes) -> str:
    """Return the message of the error for these bytes; empty if they are a state."""
    path.write_bytes(data)
    try:
        stream().restore(load_state(path))
    except StateError as error:
        message = str(error)
        assert "\n" not in message
        assert "; " in message, "the fix"
        return message
    return ""


def test_any_bytes_are_refused(path: Path) -> None:
    whole, rng = path.read_bytes(), Random(0)
    broken = [whole[:end] for end in (*range(0, 400, 7), len(whole) - 1)]
    broken += [rng.randbytes(rng.randrange(300)) for _ in range(60)]
    broken += [b"idol-state 1 " + rng.randbytes(rng.randrange(300)) for _ in range(60)]
    for _ in range(150):
        place = rng.randrange(8 * len(whole))
        flipped = bytearray(whole)
        flipped[place // 8] ^= 1 << place % 8
        broken.append(bytes(flipped))
    messages = {refusal(path, data) for data in broken}
    assert "" not in messages
    assert any(
        "its SHA-256 does not match; remove the file to start again" in message for message in messages
    )
    assert "state version 2, this idol-deploy reads 1" in refusal(
        path, whole.replace(b"state 1", b"state 2", 1)
    )


def sealed(head: bytes, arrays: bytes) -> bytes:
    content = head + b"\n" + arrays
    return b"idol-state 1 %s\n%s" % (hashlib.sha256(content).hexdigest().encode(), content)


def _changes(head: dict[str, dict[str, dict[str, object]]]) -> Iterator[tuple[object, str, object, str]]:
    tracker = head["tracker"]
    for size in (10**12, 2**63, 2**200, 0, -1):
        yield tracker["tracks"], "ids", [size], "its arrays are cut short|the shape of"
        yield tracker["tracks"], "_embeddings", [size, 3, 8], "its arrays are cut short|the shape of"
    yield tracker["tracks"], "boxes", [[1]], "Expected `int`"
    yield tracker["tracks"], "more", [1], "more arrays than expected"
    yield tracker, "tracks", {}, "the shape of ids is"
    yield tracker, "tracks", None, "Expected `object`"
    yield tracker, "next_id", 2**63, "a counter is out of range"
    yield tracker, "next_id", 0, "impossible identity"
    yield tracker, "frame", 1, "impossible identity or age"
    yield head, "index", -1, "a counter is out of range"
    yield head, "index", "20", "Expected `int`"
    yield head, "association", {"memory_length": 10**9}, "memory_length must lie between"
    yield head, "association", {"memory_length": 4}, "the shape of _embeddings"
    yield head["position"], "stride", 0, "a counter is out of range"


def test_impossible_values_are_refused_without_making_anything_of_their_size(path: Path) -> None:
    """Also with a correct SHA-256."""
    _, text, arrays = path.read_bytes().split(b"\n", 2)
    tracemalloc.start()
    for number in range(len(list(_changes(msgspec.json.decode(text))))):
        head = msgspec.json.decode(text)
        owner, key, value, expected = list(_changes(head))[number]
        owner[key] = value  # type: ignore[index]
        message = refusal(path, sealed(msgspec.json.encode(head), arrays))
        assert any(words in message for words in expected.split("|")), (key, value, message)
    rng = Random(0)
    for _ in range(400):
        refusal(path, sealed(mutate_json(rng, text).replace(b"\n", b""), arrays[: rng.choice((None, 5, -5))]))
    assert tracemalloc.get_traced_memory()[1] < 2**24
    tracemalloc.stop()
    twice, kinds = bytearray(arrays), list(MemoryBank.ARRAYS)
    assert kinds[0] == "ids"
    twice[:8] = twice[8:16]
    assert "impossible identity" in refusal(path, sealed(text, bytes(twice)))
    assert "not finite" in refusal(path, sealed(text, arrays[:-4] + np.float32(np.nan).tobytes()))


def test_files_that_are_no_regular_files_are_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with (tmp_path / "sparse").open("wb") as file:
        file.truncate(2**40)
    for name, expected in (
        ("pipe", "is not a regular file; give another --state"),
        ("sparse", "is larger than 1024 MiB; remove the file"),
        ("gone", "cannot read .*gone: No such file"),
        (".", "cannot read .*: Is a directory"),
        ("a\0b", "cannot read"),
    ):
        with pytest.raises(StateError, match=expected):
            load_state(tmp_path / name)
