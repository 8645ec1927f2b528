"""Live sources: reconnection, waits, hanging decoders, frozen pictures and time, with readers that follow a script."""

import gc
import os
import re
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from itertools import islice
from typing import Any

import numpy as np
import pytest

from idol_runtime.errors import ConfigError, SourceError
from idol_runtime.events import Event
from idol_runtime.frames import Frame, RGBImage
from idol_runtime.sources import live
from idol_runtime.sources.base import Reader, Source
from idol_runtime.sources.frame_source import FrameSource
from idol_runtime.sources.live import MAX_HANGING, LiveOptions, LiveReader
from idol_runtime.sources.opening import open_source
from samples.waiting import LIMIT_S, until
from servers.mjpeg import Fault, MjpegServer

LOST = SourceError("camera was unplugged; plug it in")


class Clock:
    """A clock that stands still except in `sleep`."""

    def __init__(self) -> None:
        self.now, self.waits = 1000.0, list[float]()
        self.on_wait: Callable[[], object] = lambda: None

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.waits.append(seconds)
        self.now += seconds
        self.on_wait()


class Scripted(Reader):
    """A reader of the given steps: a brightness, a picture, an error, or a function that is called; then the end."""

    live = True
    fps = 10.0

    def __init__(self, steps: Any) -> None:
        self.name, self._steps, self.closed, self.time_s = "camera", list(steps), False, -0.1
        self._first = self._next()
        self.size = (8, 8)

    @classmethod
    def accepts(cls, source: Source) -> bool:
        return False

    def _next(self) -> RGBImage | None:
        while self._steps:
            step = self._steps.pop(0)
            if isinstance(step, Exception):
                raise step
            if callable(step):
                step()
                continue
            self.time_s += 0.1
            return np.full((8, 8, 3), step, np.uint8) if isinstance(step, int) else step
        return None

    def read(self) -> RGBImage | None:
        image, self._first = self._first, None
        return self._next() if image is None else image

    def skip(self) -> bool:
        return self.read() is not None

    def close(self) -> None:
        self.closed = True


class Camera:
    """A source whose connections follow scripts; after the last one it cannot be opened."""

    def __init__(self, *scripts: Any, **options: Any) -> None:
        self.scripts, self.readers, self.events = list(scripts), list[Scripted](), list[Event]()
        self.clock = Clock()
        self.reader = LiveReader(
            "camera",
            self.open,
            LiveOptions(**options),
            self.events.append,
            clock=self.clock,
            sleep=self.clock.sleep,
            chance=lambda low, high: high,
        )
        self.source = FrameSource(self.reader)

    def open(self) -> Reader:
        script = self.scripts.pop(0) if self.scripts else SourceError("cannot open camera; plug it in")
        if isinstance(script, Exception):
            raise script
        self.readers.append(Scripted(script))
        return self.readers[-1]

    def frames(self) -> list[Frame]:
        with self.source:
            return list(self.source)

    @property
    def kinds(self) -> list[str]:
        return [event.kind for event in self.events]


def brightness(frames: list[Frame]) -> list[int]:
    return [int(frame.image[0, 0, 0]) for frame in frames]


def test_a_camera_that_is_down_for_ten_minutes(monkeypatch: pytest.MonkeyPatch) -> None:
    """The wall clock jumps meanwhile, which changes nothing."""
    camera = Camera([1, 2, 3, LOST], *[OSError("no route")] * 23, [4, 5])
    monkeypatch.setattr(time, "time", iter(range(10**9, 0, -(10**6))).__next__)
    frames = camera.frames()
    assert brightness(frames) == [1, 2, 3, 4, 5]
    assert [frame.index for frame in frames] == [0, 1, 2, 3, 4]
    assert [frame.epoch for frame in frames] == [0, 0, 0, 1, 1]
    down_s = sum(camera.clock.waits)
    assert camera.clock.waits == [1, 2, 4, 8, 16, *[30] * 19]
    assert down_s > 600
    assert [frame.time_s for frame in frames] == pytest.approx([0, 0.1, 0.2, down_s, down_s + 0.1])
    assert camera.kinds == ["connected", "lost", "back"]
    assert [event.message for event in camera.events] == [
        "sends frames of 8x8",
        "was unplugged; plug it in; it is opened again",
        f"sends again after {down_s:.1f} s",
    ]
    assert all(reader.closed for reader in camera.readers)


def test_waits_are_jittered() -> None:
    reader = LiveReader(
        "camera", Camera().open, LiveOptions(reconnect=8), lambda _: None, sleep=lambda s: waits.append(s)
    )
    waits: list[float] = []
    with pytest.raises(SourceError):
        reader.read()
    assert all(
        0.5 * limit <= wait <= limit for wait, limit in zip(waits, [1, 2, 4, 8, 16, 30, 30, 30], strict=True)
    )
    assert len({wait / limit for wait, limit in zip(waits, [1, 2, 4, 8, 16, 30, 30, 30], strict=True)}) == 8


def test_a_camera_that_is_dead_at_the_start() -> None:
    dead = SourceError("cannot open camera; plug it in")
    camera = Camera(dead, dead, [1])
    assert camera.source.size is None
    assert camera.source.live
    assert [frame.epoch for frame in camera.frames()] == [0]
    assert camera.source.size == (8, 8)
    assert camera.kinds == ["waiting", "connected"]


@pytest.mark.parametrize(
    ("attempts", "message"), [(0, "plug it in$"), (2, r"plug it in \(no frame in 2 attempts\)$")]
)
def test_a_limited_number_of_attempts(attempts: int, message: str) -> None:
    camera = Camera([1, LOST], reconnect=attempts)
    with camera.source, pytest.raises(SourceError, match=message):
        list(camera.source)
    assert len(camera.clock.waits) == attempts


def test_attempts_and_waits_start_again() -> None:
    """The attempts with a frame, the waits with a connection that is longer than the wait before it."""

    def up() -> None:
        camera.clock.now += 5

    camera = Camera([1, LOST], [2, LOST], [3, LOST], [4, up, LOST], [5, up, LOST], reconnect=4)
    with camera.source, pytest.raises(SourceError, match="4 attempts"):
        list(camera.source)
    assert camera.clock.waits == [1, 2, 4, 1, 1, 2, 4, 8]


def test_a_decoder_that_hangs_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hanging threads are limited, and end when their calls return."""
    before, hung, go_on = {*threading.enumerate()}, threading.Event(), threading.Event()

    class Impatient(Future[Any]):
        """A call that is given up once it hangs, whatever its time limit is."""

        def result(self, timeout: float | None = None) -> Any:
            if timeout:
                until(lambda: self.done() or hung.is_set())
                hung.clear()
            return super().result(0)

    def hang() -> None:
        hung.set()
        assert go_on.wait(LIMIT_S)

    def new_threads() -> set[threading.Thread]:
        return {thread for thread in threading.enumerate() if thread.name == "idol-live"} - before

    monkeypatch.setattr(live, "Future", Impatient)
    monkeypatch.setattr(live, "_CLOSE_S", 0.05)
    hangs = [hang, 9]
    camera = Camera([1, *hangs], *[hangs] * (MAX_HANGING - 1), [2])

    def on_wait() -> None:
        if len(camera.clock.waits) == MAX_HANGING + 3:
            assert len(new_threads()) == MAX_HANGING
            assert len(camera.scripts) == 1, "no further connection is tried"
            go_on.set()
            for thread in new_threads():
                thread.join(60)

    camera.clock.on_wait = on_wait
    assert brightness(camera.frames()) == [1, 2]
    assert camera.events[1].message == (
        "sent no frame for 10 s; check the camera and its network; it is opened again"
    )
    assert len(camera.readers) == MAX_HANGING + 1
    until(lambda: not new_threads())
    assert all(reader.closed for reader in camera.readers)


@pytest.mark.parametrize("waits_for", ["a decoder", "the next attempt"])
def test_closing_ends_a_wait(waits_for: str) -> None:
    go_on, waiting = threading.Event(), threading.Event()

    def hang() -> None:
        waiting.set()
        go_on.wait(LIMIT_S)

    camera = Camera([1, hang] if waits_for == "a decoder" else [1, LOST], read_timeout_s=120)
    if waits_for == "the next attempt":
        camera.clock.on_wait = lambda: (waiting.set(), camera.reader._stopped.wait(LIMIT_S))
    thread = threading.Thread(target=camera.frames)
    thread.start()
    assert waiting.wait(60)
    camera.source.close()
    thread.join(60)
    assert not thread.is_alive()
    go_on.set()


def test_a_frozen_camera_sends_no_frames() -> None:
    """The same picture is not passed on for longer than the limit, not even after a reconnection."""

    def second() -> None:
        camera.clock.now += 1

    camera = Camera([7, *[second, 7] * 20], [*[7, second] * 20, 8, 8, LOST], [8], frozen_s=5)
    frames = camera.frames()
    assert brightness(frames) == [7] * 6 + [8] * 3
    assert [frame.epoch for frame in frames] == [0] * 6 + [1, 1, 2]
    assert camera.kinds == ["connected", "lost", "back", "lost", "back"]
    assert camera.events[1].message == (
        "has sent the same picture for 5 s; check the camera; it is opened again"
    )
    assert brightness(Camera([7, *[second, 7] * 20], frozen_s=0).frames()) == [7] * 21


def test_a_change_of_size_is_told() -> None:
    small, wide = np.zeros((8, 8, 3), np.uint8), np.zeros((6, 10, 3), np.uint8)
    camera = Camera([small, wide, LOST], [small])
    assert [frame.size for frame in camera.frames()] == [(8, 8), (6, 10), (8, 8)]
    assert camera.source.size == (8, 8)
    assert camera.kinds == ["connected", "resized", "lost", "back", "resized"]
    assert camera.events[1].message == "sends frames of 6x10 instead of 8x8"
    assert camera.events[1].values == {"width": 10, "height": 6}


@pytest.mark.skipif(not hasattr(time, "CLOCK_BOOTTIME"), reason="the system has no such clock")
def test_a_gap_has_the_time_in_which_the_machine_was_suspended(monkeypatch: pytest.MonkeyPatch) -> None:
    suspended_s = [0.0]
    read_clock = time.clock_gettime
    monkeypatch.setattr(time, "clock_gettime", lambda number: read_clock(number) + suspended_s[0])
    camera = Camera([0, 1, lambda: suspended_s.append(suspended_s.pop() + 3600), LOST], [2])
    reader = LiveReader(
        "camera", camera.open, LiveOptions(), camera.events.append, sleep=lambda seconds: None
    )
    with FrameSource(reader) as source:
        *_, before, after = islice(source, 3)
    assert 3599 < after.time_s - before.time_s < 3660
    assert camera.events[-1].values["gap_s"] >= 3600


def test_frames_are_skipped_over_a_gap() -> None:
    camera = Camera([0, 1, 2, 3, LOST], [4, 5, 6])
    camera.source = FrameSource(camera.reader, stride=3)
    frames = camera.frames()
    assert brightness(frames) == [0, 3, 6]
    assert [frame.index for frame in frames] == [0, 3, 6]


def resources() -> tuple[int, int]:
    """Return the numbers of threads and of open files of this process."""
    return len(os.listdir("/proc/self/task")), len(os.listdir("/proc/self/fd"))


def test_twenty_restarts_of_a_server_leave_no_threads_and_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "_LONGEST_WAIT_S", 0.02)
    events: list[Event] = []
    with (
        MjpegServer(fps=100) as server,
        open_source(server.url, live=LiveOptions(), tell=events.append) as source,
    ):
        frames = iter(source)
        next(frames)
        before = resources()
        gc.disable()  # connections are released at once, not by a later collection
        try:
            for epoch in range(1, 21):
                server.stop()
                server.start()
                assert next(frame.epoch for frame in frames if frame.epoch >= epoch) == epoch
            # Fewer, if those of an earlier test were not gone yet.
            until(lambda: all(now <= then for now, then in zip(resources(), before, strict=True)))
        finally:
            gc.enable()
    assert [event.kind for event in events] == ["connected", *["lost", "back"] * 20]


@pytest.mark.parametrize(
    ("fault", "message", "limits"),
    [
        ("drop", "was lost at frame", {}),
        ("refuse", "was lost at frame", {}),
        ("stall", "was lost at frame|sent no picture that can be decoded for 2 s", {"read_timeout_s": 2.0}),
        ("garbage", "sent no picture that can be decoded for 0.3 s", {}),
        ("freeze", "has sent the same picture for 0.3 s", {"frozen_s": 0.3}),
    ],
)
def test_faults_of_an_http_camera(
    fault: Fault, message: str, limits: dict[str, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "_LONGEST_WAIT_S", 0.1)
    events: list[Event] = []

    def tell(event: Event) -> None:
        events.append(event)
        if event.kind == "lost":
            server.fault, server.size = "", (96, 128)

    rules = LiveOptions(**limits)
    with MjpegServer(fps=100) as server, open_source(server.url, live=rules, tell=tell) as source:
        frames = iter(source)
        first = list(islice(frames, 10))
        server.fault = fault
        if fault == "garbage":  # only now, because a busy camera may be late
            source._reader._connection.opened.result()._silence_s = 0.3  # type: ignore[attr-defined]
        rest = [frame for frame in islice(frames, 60) if frame.epoch][:5]
    assert [event.kind for event in events] == ["connected", "lost", "back", "resized"]
    assert re.match(message, events[1].message)
    assert [frame.size for frame in rest] == [(96, 128)] * 5
    times = [frame.time_s for frame in (*first, *rest)]
    assert times == sorted(times)
    assert rest[0].time_s - first[-1].time_s >= 0.05, "the shortest wait"


@pytest.mark.parametrize(
    ("option", "name"),
    [
        ({"reconnect": -1}, "--reconnect"),
        ({"open_timeout_s": 0.0}, "open_timeout_s"),
        ({"read_timeout_s": float("nan")}, "--read-timeout"),
        ({"frozen_s": -1.0}, "--frozen"),
    ],
)
def test_impossible_options(option: dict[str, Any], name: str) -> None:
    with pytest.raises(ConfigError, match=f"^{name} must be"):
        LiveOptions(**option)
