"""Events of tracks, compared with the identities in the JSON lines of the same runs."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from idol_runtime.config import AssociationConfig
from idol_runtime.events import Event
from idol_runtime.frames import Frame
from idol_runtime.run import source_runner
from idol_runtime.run.options import RunOptions
from idol_runtime.run.run import Run
from idol_runtime.sinks.opening import requested_outputs
from idol_runtime.streams import Streams
from samples.events import check_events
from samples.scene import CONFIG, OBJECTS, SceneBackend, picture

AGE = CONFIG.association.max_age
ALWAYS = {OBJECTS - 1: 1.0}


def run(options: RunOptions, *, track_events: bool = True) -> list[Event]:
    """Return the events of a run of one source that concern tracks."""
    events: list[Event] = []
    with Run(Streams(SceneBackend(), CONFIG), tell=events.append, track_events=track_events) as process:
        process.add(options)
        (summary,) = process.wait()
    assert summary.error is None
    check_events(events)
    return [event for event in events if event.kind.startswith("track_")]


def short(events: Sequence[Event]) -> list[tuple[str, Any, Any]]:
    return [(event.kind[6:], event.values["id"], event.values["frame"]) for event in events]


def folder_of(folder: Path, seen: Sequence[dict[int, float]]) -> Path:
    folder.mkdir()
    for t, scores in enumerate(seen):
        Image.fromarray(picture(ALWAYS | scores)).save(folder / f"{t:03d}.png")
    return folder


def expected_events(lines: Sequence[dict[str, Any]]) -> list[tuple[str, int, int]]:
    """Return what the rules say about the identities of a file, from the frames in which each was seen."""
    end, frames = len(lines) - 1, dict[int, list[int]]()
    for line in lines:
        for instance in line["instances"]:
            frames.setdefault(instance["id"], []).append(line["frame"])
    events = []
    for number, seen in frames.items():
        events.append(("enter", number, seen[0]))
        for before, after in pairwise([*seen, seen[-1] + AGE]):
            if before + 5 < min(after, end + 1):
                events.append(("lost", number, before + 5))
                if after in seen:
                    events.append(("back", number, after))
        events.append(("leave", number, min(seen[-1] + AGE, end)))
    return sorted(events, key=lambda event: (event[1], event[2]))


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 120 pictures with objects that come and go at random."""
    rng, seen = np.random.default_rng(5), [dict[int, float]() for _ in range(120)]
    for i in range(OBJECTS - 1):
        t = int(rng.integers(0, 20))
        while t < len(seen):
            length, pause = rng.integers(1, 12), rng.integers(1, 14)
            for shown in seen[t : t + length]:
                shown[i] = 0.9
            t += int(length + pause)
    return folder_of(tmp_path_factory.mktemp("scene") / "pictures", seen)


def test_events_are_those_of_the_written_identities(scene: Path, tmp_path: Path) -> None:
    events = run(RunOptions(str(scene), requested_outputs(jsonl=tmp_path / "a")))
    lines = [json.loads(line) for line in (tmp_path / "a").read_text().splitlines()]
    told = short(events)
    assert sorted(told, key=lambda event: (event[1], event[2])) == expected_events(lines)
    assert {kind for kind, _, _ in told} == {"enter", "lost", "back", "leave"}
    assert [frame for _, _, frame in told] == sorted(frame for _, _, frame in told)
    instances = {
        (line["frame"], instance["id"]): instance for line in lines for instance in line["instances"]
    }
    for event in events:
        if event.kind in ("track_enter", "track_back"):
            written = instances[event.values["frame"], event.values["id"]]
            for name in ("id", "label", "class", "score", "box_xyxy"):
                assert event.values[name] == written[name]
    for event in (event for event in events if event.kind == "track_leave"):
        own = [other for other in events if other.values["id"] == event.values["id"]]
        absent_s = sum(other.values["absence_s"] for other in own if other.kind == "track_back")  # type: ignore[misc]
        seen = [frame for frame, number in instances if number == event.values["id"]]
        assert event.values["frames_seen"] == len(seen)
        assert event.values["presence_s"] == pytest.approx((seen[-1] - seen[0]) / 30 - absent_s, abs=1e-5)


def test_a_continued_run_tells_what_one_run_tells(scene: Path, tmp_path: Path) -> None:
    """Instances do not leave at the end of a run whose state is saved, and enter once."""
    whole = run(RunOptions(str(scene), state=tmp_path / "whole"))
    parts = [
        event
        for most in (33, 40, 0)
        for event in run(RunOptions(str(scene), state=tmp_path / "parts", max_frames=most or None))
    ]
    assert short(parts) == short(whole)
    figures = [
        [(e.values["box_xyxy"], e.values.get("absence_s")) for e in events] for events in (parts, whole)
    ]
    assert figures[0] == figures[1]
    assert [event.values["frames_seen"] for event in parts if event.kind == "track_leave"] == [
        event.values["frames_seen"] for event in whole if event.kind == "track_leave"
    ]


def test_hidden_instances_have_no_events(tmp_path: Path) -> None:
    """An identity enters when it is visible, not when its track starts; without a receiver nothing is told."""
    seen = [{0: 0.3 if t < 4 or 8 <= t < 20 else 0.9, 1: 0.3} for t in range(24)]
    options = RunOptions(str(folder_of(tmp_path / "a", seen)), score=0.5)
    told = [event for event in short(run(options)) if event[1] != 0]
    number = told[0][1]
    assert told == [
        (kind, number, frame) for kind, frame in (("enter", 4), ("lost", 12), ("back", 20), ("leave", 23))
    ]
    assert run(options, track_events=False) == []


class Camera:
    """A live source with frames at given times and connections."""

    name, fps, frame_count, live, size = "camera", None, None, True, (32, 64)

    def __init__(self, frames: Sequence[Frame]) -> None:
        self._frames = frames

    def __iter__(self) -> Iterator[Frame]:
        return iter(self._frames)

    def close(self) -> None:
        """Do nothing."""


def test_instances_of_a_camera_are_lost_by_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """At 20 frames a second: absences of 0.8 s, 1.5 s and 2.5 s, and a gap without frames."""
    absent = [(1.0, 1.8), (3.0, 4.5), (6.0, 8.5)]
    frames = []
    for t in range(200):
        time_s = t / 20
        here = not any(start < time_s + 1e-6 < end for start, end in absent)
        frames.append(Frame(t, time_s, picture(ALWAYS | ({0: 0.9} if here else {}))))
    gap = [
        replace(frame, index=frame.index + 200, time_s=frame.time_s + 110, epoch=1) for frame in frames[:10]
    ]
    monkeypatch.setattr(source_runner, "open_source", lambda *_, **__: Camera([*frames, *gap]))
    events = run(RunOptions("rtsp://camera", queue="block"))
    cat = [(e.kind, e.values["time_s"]) for e in events if e.values["class"] == "cat"]
    assert cat == [
        ("track_enter", 0.0),
        ("track_lost", pytest.approx(4.0, abs=0.051)),
        ("track_back", 4.5),
        ("track_lost", pytest.approx(7.0, abs=0.051)),
        ("track_leave", pytest.approx(8.0, abs=0.051)),
        ("track_enter", 8.5),
        ("track_leave", 110.0),
        ("track_enter", 110.0),
        ("track_leave", 110.45),
    ]
    back = next(event for event in events if event.kind == "track_back")
    assert back.values["absence_s"] == pytest.approx(1.55, abs=0.051)
    leave = next(event for event in events if event.kind == "track_leave")
    assert leave.values["presence_s"] == pytest.approx(6.0 - 1.55, abs=0.11)


def test_a_full_memory_forgets_identities(tmp_path: Path) -> None:
    """More instances than the tracker may remember: nothing is left in the memory of the events either."""
    config = replace(CONFIG, association=replace(CONFIG.association, max_tracks=2))
    assert config.association != AssociationConfig()
    folder = folder_of(tmp_path / "a", [{0: 0.9, 1: 0.8, 2: 0.7, 3: 0.6}] * 10)
    events: list[Event] = []
    with Run(Streams(SceneBackend(), config), tell=events.append, track_events=True) as process:
        process.add(RunOptions(str(folder)))
        process.wait()
    kinds = [event.kind for event in events]
    assert kinds.count("track_enter") == kinds.count("track_leave") > 20
