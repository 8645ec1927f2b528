"""Events and their schema."""

import io
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from PIL import Image

from idol_runtime.events import Event, EventKind
from idol_runtime.run import drops, source_runner
from idol_runtime.run.options import RunOptions
from idol_runtime.run.run import Run
from idol_runtime.sinks import base
from idol_runtime.sinks.opening import requested_outputs
from idol_runtime.sinks.policy import FilePolicy
from idol_runtime.sources import live
from idol_runtime.streams import Streams
from samples.events import SCHEMA, check_events, problems
from samples.scene import CONFIG, SceneBackend, picture
from servers.mjpeg import MjpegServer


def test_every_kind_has_a_branch_of_the_schema() -> None:
    branches = [branch["properties"]["kind"]["const"] for branch in SCHEMA["oneOf"]]
    assert branches == list(get_args(EventKind))


TRACK: dict[str, Any] = {
    "id": 3,
    "label": 0,
    "class": "cat",
    "score": 0.9,
    "box_xyxy": [0.0, 1.0, 2.5, 3.0],
    "frame": 7,
    "time_s": 0.28,
}


@pytest.mark.parametrize(
    ("kind", "values", "right"),
    [
        ("track_enter", TRACK, True),
        ("track_enter", TRACK | {"box_xyxy": [0.0, 1.0, 2.5]}, False),
        ("track_enter", TRACK | {"absence_s": 1.0}, False),
        ("track_lost", TRACK | {"absence_s": 1.0, "absence_frames": 5}, True),
        ("track_lost", TRACK, False),
        ("dropped", {"dropped": 7, "frames": 3, "seconds": 10.0, "total": 7}, True),
        ("dropped", {"dropped": -7, "frames": 3, "seconds": 10.0, "total": 7}, False),
        ("dropped", {"dropped": 7}, False),
        ("lost", {"gap_s": 1.0}, False),
        ("evicted", {"parts": 1}, False),
        ("evicted", {"parts": 1, "output": "a", "tracks": 1}, False),
        ("stolen", {}, False),
    ],
)
def test_the_schema_refuses_other_values(kind: Any, values: dict[str, Any], right: bool) -> None:
    assert (problems(Event(kind, "door", "one sentence", values)) == []) == right


@pytest.fixture
def eventful(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorten the waits of cameras and outputs."""
    monkeypatch.setattr(live, "_LONGEST_WAIT_S", 0.05)
    monkeypatch.setattr(base, "RETRY_S", 0.0)
    monkeypatch.setattr(drops, "_INTERVAL_S", 0.05)
    monkeypatch.setattr(source_runner, "_BURST_S", 0.0)


@pytest.mark.usefixtures("eventful")
def test_events_of_a_run_follow_the_schema(tmp_path: Path) -> None:
    """Faults of a camera and of an output, a state, and more tracks than the tracker may remember."""
    jpegs = []
    for image in (picture({0: 0.9, 1: 0.8, 2: 0.7}), np.tile(picture({0: 0.9}), (2, 1, 1))):
        data = io.BytesIO()
        Image.fromarray(image).save(data, "JPEG", quality=95, subsampling=0)
        jpegs.append(data.getvalue())
    folder, events = tmp_path / "out", list[Event]()
    folder.mkdir()

    def until(kind: str, count: int = 1) -> None:
        deadline = time.monotonic() + 60
        while [event.kind for event in list(events)].count(kind) < count:
            assert time.monotonic() < deadline, f"no event {kind}: {events}"
            time.sleep(0.01)

    config = replace(CONFIG, association=replace(CONFIG.association, max_tracks=2))
    with (
        MjpegServer(fps=100, pictures=jpegs[:1]) as camera,
        Run(Streams(Slow(), config), tell=events.append, track_events=True) as run,
    ):
        camera.stop()
        options = RunOptions(
            camera.url,
            requested_outputs(jsonl=folder / "a"),
            name="door",
            files=FilePolicy.parse(rotate="2kB", retain="5kB"),
            state=tmp_path / "state",
        )
        thread = threading.Thread(target=run.wait, args=(lambda: not run.interrupted,))
        thread.start()
        run.add(options)
        until("waiting")
        camera.start()
        for kind in ("connected", "dropped", "rotated"):
            until(kind)
        until("evicted", 2)
        folder.rename(tmp_path / "gone")
        until("output_stopped")
        folder.mkdir()
        until("output_back")
        camera.stop()
        camera.pictures = jpegs[1:]
        camera.start()
        for kind in ("lost", "back", "resized", "tracks_reset"):
            until(kind)
        run.remove("door")
        until("removed")
        run.add(options)
        until("resumed")
        until("connected", 2)
        run.stop()
        thread.join(60)
    # The others are events of `--streams` and of absent instances.
    assert check_events(events) == {*get_args(EventKind)} - {
        "refused",
        "accepted",
        "track_lost",
        "track_back",
    }


class Slow(SceneBackend):
    """A network that is slower than its camera."""

    def infer(self, images: Any) -> Any:
        time.sleep(0.02)
        return super().infer(images)
