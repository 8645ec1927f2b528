"""Continuity: tracks after gaps, numbers after a killed run, and states that wait for the outputs of a file."""

import json
import math
import os
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from idol_runtime.config import AssociationConfig, Category, StreamConfig
from idol_runtime.errors import ConfigError, OutputError, StateError
from idol_runtime.events import Event
from idol_runtime.frames import Frame
from idol_runtime.run import continuity
from idol_runtime.run.continuity import Continuity
from idol_runtime.run.options import RunOptions
from idol_runtime.run.run import Run
from idol_runtime.sinks.opening import requested_outputs
from idol_runtime.state import load_state
from idol_runtime.stream import Stream
from idol_runtime.streams import Streams
from samples.grey import CONFIG, GreyBackend
from samples.waiting import until
from servers.mjpeg import MjpegServer

IMAGE = np.zeros((32, 64, 3), np.uint8)


class Source:
    """A source that yields nothing."""

    name, live, size = "camera", True, (32, 64)
    skipped = 0

    def skip(self, frames: int) -> None:
        self.skipped = frames


class Process:
    """A run of one source; each frame has new objects, or one that is always the same.

    Attributes:
        all: runs of this test.
    """

    all: ClassVar[list["Process"]] = []

    def __init__(self, path: Path | None, source: Source | None = None, **options: Any) -> None:
        self.events: list[tuple[str, str]] = []
        self.source = source or Source()
        association = AssociationConfig(max_tracks=options.pop("max_tracks", 10_000))
        self.stream = Stream(StreamConfig((Category("cat", 1),), association=association), None)
        self.continuity = Continuity(
            self.stream,
            self.source,  # type: ignore[arg-type]
            RunOptions("camera", state=path, **options),
            lambda kind, message, **_: self.events.append((kind, message)),
        )
        self.states: list[str] = []
        self.all.append(self)

    def step(self, frame: Frame, new: int = 0, output: Any = lambda: None) -> list[int]:
        """Track a frame with this number of new objects, or with the one that is always seen."""
        self.continuity.begin(frame)
        self.stream.prepare(frame.image)
        count = new or 1
        embeddings = np.eye(count, 8, dtype=np.float32) if not new else np.zeros((count, 8), np.float32)
        columns = (
            np.full(count, 0.9, np.float32),
            np.zeros(count, np.int64),
            np.full((count, 4), 0.5, np.float32),
        )
        tracker = self.stream.tracker
        ids = tracker.associate(*columns, 9 * embeddings) if not new else tracker.next_id + np.arange(new)
        tracker.commit(ids, *columns, 9 * embeddings, time_s=frame.time_s)
        self.continuity.write(frame, self.continuity.done(frame), output)
        numbers: list[int] = ids.tolist()
        return numbers


@pytest.fixture(autouse=True)
def _states_are_closed() -> Iterator[None]:
    yield
    while Process.all:
        Process.all.pop().continuity.close()


@pytest.mark.parametrize("after_gap_s", [-1.0, math.nan])
def test_a_negative_gap_is_refused(after_gap_s: float) -> None:
    with pytest.raises(ConfigError, match=f"^--after-gap must not be negative, got {after_gap_s}"):
        RunOptions("camera", after_gap_s=after_gap_s)


@pytest.mark.parametrize(
    ("after_gap_s", "gap_s", "kept"),
    [(30, 29, True), (30, 31, False), (0, 0.5, False), (math.inf, 1e6, True)],
)
@pytest.mark.parametrize("restart", [False, True])
def test_a_gap_keeps_identities_or_not(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    after_gap_s: float,
    gap_s: float,
    kept: bool,
    restart: bool,
) -> None:
    process = Process(tmp_path / "a", after_gap_s=after_gap_s)
    assert [process.step(Frame(t, t / 10, IMAGE, epoch=0)) for t in range(5)] == [[0]] * 5
    after = Frame(5, 0.4 + gap_s, IMAGE, epoch=1)
    if restart:
        process.continuity.finish()
        process.continuity.close()
        state = load_state(tmp_path / "a")
        assert (state.clean, state.position and state.position.index) == (True, 4)
        process = Process(tmp_path / "a", after_gap_s=after_gap_s)
        monkeypatch.setattr(continuity.time, "time", lambda: state.saved + gap_s)
        (after,) = process.continuity.frames([Frame(0, 0.0, IMAGE)])
        assert (after.index, after.time_s, after.epoch) == (5, pytest.approx(0.4 + gap_s), 1)
        assert process.events.pop(0) == ("resumed", "continues after frame 4, with 1 tracks in memory")
    assert process.step(after) == ([0] if kept else [1])
    assert process.step(replace(after, index=6, time_s=after.time_s + 0.1)) == ([0] if kept else [1])
    message = f"all instances get new identities, after a gap of {gap_s:.1f} s"
    assert process.events == ([] if kept else [("tracks_reset", message)])


def test_another_size_forgets_tracks() -> None:
    process = Process(None)
    small = np.zeros((16, 32, 3), np.uint8)
    ids = [process.step(Frame(t, t / 10, image)) for t, image in enumerate((IMAGE, IMAGE, small, small))]
    assert ids == [[0], [0], [1], [1]]
    message = "all instances get new identities, because frames have 16x32 pixels, not 32x64"
    assert process.events == [("tracks_reset", message)]


@pytest.mark.parametrize("new", [3, 700])
@pytest.mark.parametrize("step", [1, 400])
def test_a_killed_camera_uses_no_identity_and_no_frame_number_twice(
    tmp_path: Path, new: int, step: int
) -> None:
    """Also if more than is reserved is used between two states; a state is on the disk before what it reserves."""
    path, written, frames = tmp_path / "a", list[int](), list[int]()
    for _ in range(4):
        process = Process(path)
        for frame in process.continuity.frames([Frame(step * t, t / 10, IMAGE) for t in range(9)]):

            def output(frame: Frame = frame, process: Process = process) -> None:
                state = load_state(path)
                assert state.position is not None
                assert process.stream.tracker.next_id <= state.tracker.next_id
                assert frame.index <= state.position.index

            written += process.step(frame, new, output)
            frames.append(frame.index)
        process.continuity.close()  # by the end of its process
    assert len(written) == len(set(written)) == 4 * 9 * new
    assert len(frames) == len(set(frames)) == 4 * 9


def test_a_state_of_a_file_waits_for_the_outputs(tmp_path: Path) -> None:
    source = Source()
    source.live = False
    process = Process(tmp_path / "a", source, stride=2)

    def stopped() -> None:
        assert not (tmp_path / "a").exists()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        process.step(Frame(0, 0.0, IMAGE), output=stopped)
    process.continuity.finish()  # a frame that was tracked, but not written
    assert not (tmp_path / "a").exists()
    for t in range(0, 12, 2):
        process.step(Frame(t, t / 10, IMAGE))
    process.continuity.finish()
    with pytest.raises(OutputError, match="another run writes it; end that run"):
        Process(tmp_path / "a", source, stride=2)
    process.continuity.close()
    again = Process(tmp_path / "a", source, stride=2)
    assert (source.skipped, again.continuity.skipped, again.continuity.resumed) == (6, 6, True)
    assert [frame.index for frame in again.continuity.frames([Frame(12, 1.2, IMAGE)])] == [12]


@pytest.mark.parametrize(
    ("name", "stride", "size", "expected"),
    [
        (
            "yard",
            1,
            (32, 64),
            "belongs to camera with --stride 1, not to yard with --stride 1; give another --state",
        ),
        ("camera", 2, (32, 64), "belongs to camera with --stride 1, not to camera with --stride 2"),
        (
            "camera",
            1,
            (64, 64),
            "was made with frames of another size than those of camera; give another --state",
        ),
    ],
)
def test_a_state_of_another_source_is_refused(
    tmp_path: Path, name: str, stride: int, size: tuple[int, int], expected: str
) -> None:
    source = Source()
    source.live = False
    process = Process(tmp_path / "a", source)
    process.step(Frame(0, 0.0, IMAGE))
    process.continuity.close()
    source.name, source.size = name, size  # type: ignore[misc]
    with pytest.raises(StateError, match=expected):
        Process(tmp_path / "a", source, stride=stride)
    (tmp_path / "a").write_text("nothing")
    with pytest.raises(StateError, match="is no state of a stream"):
        Process(tmp_path / "a", source)


def test_two_runs_that_start_together_do_not_share_a_state(tmp_path: Path) -> None:
    first, second = Process(tmp_path / "a"), Process(tmp_path / "a")
    for process in (first, second):
        process.step(Frame(0, 0.0, IMAGE), new=3 if process is first else 5)
    assert load_state(tmp_path / "a").tracker.next_id == 1003
    assert first.events == []
    assert [kind for kind, _ in second.events] == ["output_stopped"]
    assert "a: another run writes it; end that run, or give another name" in second.events[0][1]


def test_a_full_disk_stops_only_the_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(100))
    monkeypatch.setattr(continuity.time, "monotonic", lambda: float(next(clock)))
    process = Process(tmp_path / "a")
    with monkeypatch.context() as patch:

        def full(_: int) -> None:
            raise OSError(28, "No space left on device")

        patch.setattr(os, "fsync", full)
        for t in range(3):
            process.step(Frame(t, t / 10, IMAGE))
    for t in range(3, 6):
        process.step(Frame(t, t / 10, IMAGE))
    assert [kind for kind, _ in process.events] == ["output_stopped", "output_back"]
    assert process.events[0][1].endswith("a: No space left on device; free some space")
    assert load_state(tmp_path / "a").tracker.frame == 5


def test_evicted_tracks_are_told_and_not_for_every_frame() -> None:
    process = Process(None, max_tracks=5)
    for t in range(50):
        process.step(Frame(t, t / 10, IMAGE), new=2)
    assert process.events == [("evicted", "1 tracks beyond association.max_tracks were deleted")]


@pytest.mark.parametrize(("live", "max_age_s"), [(True, 2.0), (False, None)])
def test_only_tracks_of_cameras_live_by_time(live: bool, max_age_s: float | None) -> None:
    source = Source()
    source.live = live
    process = Process(None, source)
    process.step(Frame(0, 0.0, IMAGE))
    assert process.stream.tracker.config.max_age_s == max_age_s


@pytest.mark.slow
@pytest.mark.parametrize(
    ("after_gap_s", "size", "expected"),
    [
        (30.0, (64, 96), {0}),
        (0.0, (64, 96), {0, 1}),
        (30.0, (32, 64), {0, 1}),
    ],
)
def test_identities_of_a_camera_that_is_restarted(
    tmp_path: Path, after_gap_s: float, size: tuple[int, int], expected: set[int]
) -> None:
    events: list[Event] = []
    lines = tmp_path / "a"

    def written() -> int:
        return len(lines.read_bytes().splitlines()) if lines.exists() else 0

    with MjpegServer((64, 96)) as camera, Run(Streams(GreyBackend(), CONFIG), tell=events.append) as run:
        run.add(RunOptions(camera.url, requested_outputs(jsonl=lines), after_gap_s=after_gap_s))
        thread = threading.Thread(target=run.wait)
        thread.start()
        for count in (20, 20):
            needed = written() + count
            until(lambda: written() >= needed, limit_s=30)  # noqa: B023
            camera.stop()
            camera.size = size
            camera.start()
        run.stop()
        thread.join(60)
    records = [json.loads(line) for line in lines.read_text().splitlines()]
    assert {instance["id"] for record in records for instance in record["instances"]} == expected
    frames, times = [record["frame"] for record in records], [record["time_s"] for record in records]
    assert frames == sorted(set(frames))
    assert max(np.diff(times)) > 0.3, "the gap is in the times"
    assert [event.kind for event in events if event.kind == "tracks_reset"] == ["tracks_reset"] * (
        len(expected) - 1
    )


@pytest.fixture(autouse=True)
def _no_partial_file(tmp_path: Path) -> Iterator[None]:
    yield
    assert {path.name for path in tmp_path.iterdir()} <= {"a"}
