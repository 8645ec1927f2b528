"""Faults of cameras, with `idol-deploy run` and real servers: events, identities, and nothing that leaks."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from idol_deploy.cli import main
from samples.waiting import LIMIT_S, until
from servers.mjpeg import Fault, MjpegServer
from servers.rtsp import RtspServer

pytestmark = [pytest.mark.slow, pytest.mark.gstreamer]
pytest.importorskip("av")
pytest.importorskip("onnxruntime")
BUNDLE = Path(__file__).parents[3] / "models" / "edge_synth" / "edge_synth.idol"
SIZE = (160, 256)  # of the bundle's frames


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 16 pictures: a scene with four objects, seen by a camera that sways."""
    folder = tmp_path_factory.mktemp("scene")
    size = ("--size", "{}x{}".format(*SIZE), "--frames", "1")
    assert not main(
        ["synth", "--split", "val", "--videos", "1", "--seed", "7", *size, "-o", str(folder / "synth")]
    )
    still = np.asarray(Image.open(next((folder / "synth").glob("JPEGImages/*/*"))))
    for i, angle in enumerate(np.linspace(0, 2 * np.pi, 16, endpoint=False)):
        shift = round(3 * np.cos(angle)), round(4 * np.sin(angle))
        Image.fromarray(np.roll(still, shift, (0, 1))).save(folder / f"{i:05d}.png")
    return folder


@pytest.fixture(scope="module")
def jpegs(scene: Path) -> list[bytes]:
    """The scene as JPEG files."""
    files = []
    for path in sorted(scene.glob("*.png")):
        data = io.BytesIO()
        Image.open(path).save(data, "JPEG", quality=95)
        files.append(data.getvalue())
    return files


class Operation:
    """`idol-deploy run` on cameras, in a process of its own, seen through its events and its JSON lines."""

    def __init__(self, folder: Path, sources: Sequence[str], *options: str) -> None:
        self.sources, self._folder = sources, folder
        self._log = (folder / "log").open("w+")
        names = [part for source in sources for part in ("--source", source)]
        outputs = ("--events", str(folder / "events"), "--jsonl", str(folder / "{number}.jsonl"))
        # Gaps are longer on a loaded machine.
        network = ("--graph", "portable", "--backend", "onnxruntime", "--after-gap", "keep")
        entry = "from idol_deploy.cli import entry; raise SystemExit(entry())"
        self.process = subprocess.Popen(
            [sys.executable, "-c", entry, "run", str(BUNDLE), *names, *outputs, *network, *options],
            stdout=self._log,
            stderr=self._log,
        )

    def __enter__(self) -> Operation:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        self._log.close()
        sys.stdout.write(self.log)

    @property
    def log(self) -> str:
        """Text on the console so far."""
        return (self._folder / "log").read_text()

    def events(self, source: int = 0) -> list[dict[str, Any]]:
        """Return the events of a source so far."""
        events = _whole_lines(self._folder / "events")
        return [event for event in events if event["source"] == self.sources[source]]

    def lines(self, source: int = 0) -> list[dict[str, Any]]:
        """Return the whole JSON lines of a source so far."""
        return _whole_lines(self._folder / f"{source + 1}.jsonl")

    def wait_for(self, kind: str, count: int = 1, source: int = 0) -> dict[str, Any]:
        """Return the event of this kind that has this number, once it has come."""

        def event() -> list[dict[str, Any]]:
            return [event for event in self.events(source) if event["kind"] == kind][count - 1 :]

        return until(event, self.process)[0]

    def wait_for_frames(self, count: int, source: int = 0) -> list[dict[str, Any]]:
        """Return the JSON lines, once this number of them has been added."""
        before = len(self.lines(source))
        until(lambda: len(self.lines(source)) >= before + count, self.process)
        return self.lines(source)

    def wait_for_silence(self, source: int = 0) -> None:
        """Wait until no line has been added for 2 s: frames on their way are written."""
        count, since = -1, 0.0

        def silent() -> bool:
            nonlocal count, since
            if count != (count := len(self.lines(source))):
                since = time.monotonic()
            return time.monotonic() - since > 2

        until(silent, self.process)

    def held(self) -> tuple[int, int]:
        """Return the numbers of threads and of open files."""
        folder = Path("/proc", str(self.process.pid))
        return len(os.listdir(folder / "task")), len(os.listdir(folder / "fd"))

    def wait_for_held(self, expected: tuple[int, int]) -> None:
        """Wait until there are no more threads and open files than before; some end a little later."""
        until(
            lambda: all(now <= before for now, before in zip(self.held(), expected, strict=True)),
            self.process,
        )

    def stop(self) -> int:
        """End the run with SIGTERM and return its exit status; its outputs are complete then."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(LIMIT_S)


def _whole_lines(path: Path) -> list[dict[str, Any]]:
    *lines, _ = path.read_text().split("\n") if path.exists() else [""]
    return [json.loads(line) for line in lines]


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Any]:
    """Function that starts `idol-deploy run` on cameras; it is killed after the test."""
    started: list[Operation] = []

    def start(*sources: str, options: Sequence[str] = ()) -> Operation:
        started.append(Operation(tmp_path, sources, *options))
        return started[-1]

    yield start
    for operation in started:
        operation.__exit__()


def steady(lines: Sequence[dict[str, Any]]) -> set[int]:
    """Return the identities that are in most of these frames; checks that their indices and times grow."""
    for before, after in pairwise(lines):
        assert before["frame"] < after["frame"]
        assert before["time_s"] < after["time_s"]
    counts = Counter(instance["id"] for line in lines for instance in line["instances"])
    return {number for number, count in counts.items() if count > len(lines) / 2}


def kinds(events: Sequence[dict[str, Any]]) -> list[str]:
    """Return the kinds of the events of the camera, without its dropped frames and tracks."""
    every = [event["kind"] for event in events]
    return [kind for kind in every if kind != "dropped" and not kind.startswith("track_")]


def test_a_server_is_killed_and_started_twenty_times(run: Any, scene: Path) -> None:
    with RtspServer(SIZE, pictures=scene) as server:
        operation = run(server.url)
        before = steady(operation.wait_for_frames(20))
        assert len(before) >= 3
        for i in range(20):
            server.kill()
            assert "lost" in operation.wait_for("lost", i + 1)["message"]
            server.start()
            gap_s = operation.wait_for("back", i + 1)["values"]["gap_s"]
            assert gap_s < 60
            time.sleep(gap_s)  # a camera that returns only for a moment is opened later each time
            if i == 0:
                operation.wait_for_frames(20)
                held = operation.held()
        assert steady(operation.wait_for_frames(20)[-20:]) == before
        operation.wait_for_held(held)
        assert operation.stop() == 130
    assert kinds(operation.events()) == ["connected", *["lost", "back"] * 20, "ended"]
    assert "sends again after" in operation.log


def test_a_camera_is_dead_at_the_start(run: Any, scene: Path) -> None:
    server = RtspServer(SIZE, pictures=scene, start=False)
    operation = run(server.url)
    assert "Connection refused" in operation.wait_for("waiting")["message"]
    time.sleep(3)
    assert operation.lines() == []
    with server:
        server.start()
        operation.wait_for("connected")
        assert len(steady(operation.wait_for_frames(20))) >= 3
        assert operation.stop() == 130
    assert kinds(operation.events()) == ["waiting", "connected", "ended"]


def test_a_camera_stalls_in_the_middle_of_a_frame(run: Any, scene: Path, jpegs: list[bytes]) -> None:
    """Two stalls at the same time: a process that is stopped, and half of a JPEG file."""
    with RtspServer(SIZE, pictures=scene) as rtsp, MjpegServer(pictures=jpegs) as http:
        operation = run(rtsp.url, http.url)
        before = [steady(operation.wait_for_frames(20, source)) for source in (0, 1)]
        held = operation.held()
        rtsp.pause()
        http.fault = "stall"
        for source in (0, 1):
            operation.wait_for("lost", source=source)
        rtsp.resume()
        http.fault = ""
        for source in (0, 1):
            lost, back = (operation.wait_for(kind, source=source) for kind in ("lost", "back"))
            # The last frame came before the silence: no part of a frame is passed on at its end.
            assert back["values"]["gap_s"] > back["time"] - lost["time"] + 5
            assert steady(operation.wait_for_frames(20, source)[-20:]) == before[source]
        operation.wait_for_held(held)
        assert operation.stop() == 130


@pytest.mark.parametrize("fault", ["garbage", "freeze"])
def test_a_camera_sends_garbage_or_the_same_picture(run: Any, jpegs: list[bytes], fault: Fault) -> None:
    with MjpegServer(pictures=jpegs) as server:
        operation = run(server.url, options=["--frozen", "3"])
        before = steady(operation.wait_for_frames(20))
        server.fault = fault
        operation.wait_for("lost")
        operation.wait_for_silence()
        server.fault = ""
        operation.wait_for("back")
        assert steady(operation.wait_for_frames(20)[-20:]) == before
        assert operation.stop() == 130


def test_a_camera_returns_with_another_resolution(run: Any, scene: Path) -> None:
    """With --fit the network gets the new size, and identities begin anew; without it that source ends alone."""
    with RtspServer(SIZE, pictures=scene) as server, RtspServer(SIZE, pictures=scene) as other:
        operation = run(server.url, other.url, options=["--fit"])
        before = steady(operation.wait_for_frames(20))
        server.size, server.pictures = (240, 320), None
        server.restart()
        assert (operation.wait_for("resized")["values"]["height"]) == 240
        operation.wait_for("tracks_reset")
        after = operation.wait_for_frames(20)[-10:]
        assert all(line["size"] == [240, 320] for line in after)
        assert not steady(after) & before
        assert operation.stop() == 130


def test_a_resolution_that_the_network_cannot_take_ends_that_source_alone(run: Any, scene: Path) -> None:
    with RtspServer(SIZE, pictures=scene) as server, RtspServer(SIZE, pictures=scene) as other:
        operation = run(server.url, other.url)
        for source in (0, 1):
            operation.wait_for_frames(10, source)
        server.size, server.pictures = (240, 320), None
        server.restart()
        ended = operation.wait_for("ended")
        assert "--fit" in ended["message"]
        operation.wait_for_frames(20, source=1)
        assert operation.stop() == 2
    assert "240x320" in operation.log


def test_slow_and_fast_cameras(run: Any, jpegs: list[bytes]) -> None:
    """Cameras of 1 and 120 frames per second: no loss is told, and the fast one drops frames but stays recent."""
    with MjpegServer(fps=1, pictures=jpegs) as slow, MjpegServer(fps=120, pictures=jpegs) as fast:
        operation = run(slow.url, fast.url)
        lines = operation.wait_for_frames(12)
        assert np.median(np.diff([line["time_s"] for line in lines])) == pytest.approx(1, abs=0.3)
        operation.wait_for("dropped", source=1)
        assert operation.lines(source=1)[-1]["frame"] <= fast.sent
        assert operation.stop() == 130
        (ended,) = [event for event in operation.events(1) if event["kind"] == "ended"]
        assert ended["values"]["dropped"] > 100
    assert kinds(operation.events(0)) == kinds(operation.events(1)) == ["connected", "ended"]


def test_one_of_four_cameras_is_lost(run: Any, scene: Path) -> None:
    servers = [RtspServer(SIZE, fps=2, pictures=scene) for _ in range(4)]
    try:
        operation = run(*(server.url for server in servers))
        before = [steady(operation.wait_for_frames(8, source)) for source in range(4)]
        servers[2].kill()
        operation.wait_for("lost", source=2)
        operation.wait_for_silence(source=2)
        count = len(operation.lines(source=2))
        for source in (0, 1, 3):
            operation.wait_for_frames(4, source)
        assert len(operation.lines(source=2)) == count
        servers[2].start()
        operation.wait_for("back", source=2)
        assert steady(operation.wait_for_frames(8, source=2)[-8:]) == before[2]
        assert operation.stop() == 130
    finally:
        for server in servers:
            server.kill()
    for source in (0, 1, 3):
        steady(operation.lines(source))
        assert kinds(operation.events(source)) == ["connected", "ended"]


@pytest.mark.parametrize("fault", [signal.SIGKILL, signal.SIGSTOP])
def test_a_driver_crashes_or_hangs(run: Any, scene: Path, fault: signal.Signals) -> None:
    pictures = f"multifilesrc location={scene}/%05d.png loop=true caps=image/png,framerate=25/1 ! pngdec"
    source = f"gst:videotestsrc is-live=true ! fakesink {pictures} ! identity sync=true ! appsink"
    operation = run(source)
    before = steady(operation.wait_for_frames(20))
    held = operation.held()
    children = Path(f"/proc/{operation.process.pid}/task/{operation.process.pid}/children")
    for path in children.parents[1].glob("*/children"):
        for child in path.read_text().split():
            os.kill(int(child), fault)
    operation.wait_for("lost")
    operation.wait_for("back")
    assert steady(operation.wait_for_frames(20)[-20:]) == before
    operation.wait_for_held(held)
    assert operation.stop() == 130
