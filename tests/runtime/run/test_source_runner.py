"""Sources in a run: queues, frame ages, and sources that come, go, hang and break."""

import itertools
import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from idol_runtime.errors import ConfigError, SourceError
from idol_runtime.events import Event
from idol_runtime.frames import Frame
from idol_runtime.run import drops, source_runner
from idol_runtime.run import run as run_module
from idol_runtime.run.options import RunOptions
from idol_runtime.run.run import Run
from idol_runtime.run.threads import WriterThread
from idol_runtime.sinks.jsonl import JsonlSink
from idol_runtime.sinks.opening import requested_outputs
from idol_runtime.sinks.policy import FilePolicy, Limit
from idol_runtime.streams import Streams
from samples.grey import CONFIG, GreyBackend
from samples.waiting import LIMIT_S, until

pytestmark = pytest.mark.usefixtures("no_thread_is_left")


class Camera:
    """A source whose frames come at given times after it is started, or when the script of the test lets them."""

    fps, frame_count, live, size = None, None, True, (32, 64)

    def __init__(self, name: str, frames: Iterable[float | Callable[[], object]], live: bool = True) -> None:
        """`frames`: per frame, its time in seconds, or a function that returns when it comes."""
        self.name, self._script, self.live = name, frames, live
        self._closed = threading.Event()

    def close(self) -> None:
        self._closed.set()

    def __iter__(self) -> Iterator[Frame]:
        begin = time.monotonic()
        for t, due in enumerate(self._script):
            arrived_s = due() if callable(due) else None
            if not callable(due) and self._closed.wait(begin + due - time.monotonic()):
                return
            brightness = 100 + 10 * (t % 5)
            image = np.full((32, 64, 3), brightness, np.uint8)
            yield Frame(
                t, t / 30, image, arrived_s=arrived_s if isinstance(arrived_s, float) else time.monotonic()
            )


class Bursts(GreyBackend):
    """A network whose calls take a time of a virtual clock, and during each of which a camera sends some frames.

    Each call is a number of frames and its seconds; the camera sends one frame before the first call, and the last
    call has no frames.

    Attributes:
        script: script of the camera.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *calls: tuple[int, float]) -> None:
        super().__init__()
        self._calls, self._now = [*calls, (0, 0.03)], 1000.0
        self._allowed, self._sent, self._permits = 1, 0, threading.Semaphore(1)
        clock = SimpleNamespace(monotonic=lambda: self._now, perf_counter=time.perf_counter)
        monkeypatch.setattr(source_runner, "time", clock)
        self.script = self._frames(1 + sum(frames for frames, _ in calls))

    def _frames(self, count: int) -> Iterator[Callable[[], float]]:
        for _ in range(count):
            yield lambda: self._permits.acquire(timeout=60) * self._now
            self._sent += 1  # into the queue

    def infer(self, images: np.ndarray) -> list:
        frames, seconds = self._calls.pop(0)
        self._now += seconds
        self._allowed += frames
        for _ in range(frames):
            self._permits.release()
        until(lambda: self._sent == self._allowed)
        return super().infer(images)


@pytest.fixture
def cameras(monkeypatch: pytest.MonkeyPatch) -> dict[str, Camera]:
    """Cameras by their sources."""
    known: dict[str, Camera] = {}
    monkeypatch.setattr(source_runner, "open_source", lambda source, **_: known[source])
    return known


@pytest.fixture
def entry(tmp_path: Path, cameras: dict[str, Camera]) -> Callable[..., RunOptions]:
    """Return options of a camera whose output is `NAME.jsonl`."""

    def make(
        name: str, frames: Iterable[float | Callable[[], object]], live: bool = True, **options: object
    ) -> RunOptions:
        source = f"rtsp://{name}"
        cameras[source] = Camera(name, frames, live)
        return RunOptions(source, requested_outputs(jsonl=tmp_path / f"{name}.jsonl"), name=name, **options)

    return make


def lines(folder: Path, name: str) -> list[bytes]:
    return (folder / f"{name}.jsonl").read_bytes().splitlines()


def indices(folder: Path, name: str) -> list[int]:
    return [json.loads(line)["frame"] for line in lines(folder, name)]


def finish(
    streams: Streams, *entries: RunOptions, tell: Callable[[Event], object] = lambda event: None
) -> tuple[Run, list[Event]]:
    events: list[Event] = []
    with Run(streams, tell=lambda event: (events.append(event), tell(event))) as run:
        for options in entries:
            run.add(options)
        run.summaries = run.wait()  # type: ignore[attr-defined]
    return run, events


def test_a_fast_camera_waits_for_the_network_alone(
    entry: Callable[..., RunOptions], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """133 frames a second into a network that processes 33; `benchmarks.live` measures the ages."""
    monkeypatch.setattr(drops, "_INTERVAL_S", 0.1)
    monkeypatch.setattr(WriterThread, "full", False)  # the output is fast
    network = Bursts(monkeypatch, *[(4, 0.03)] * 19)
    run, events = finish(Streams(network, CONFIG), entry("fast", network.script))
    (summary,) = run.summaries
    assert (summary.frames, summary.ages.count, summary.dropped) == (20, 20, 57)
    assert indices(tmp_path, "fast") == list(range(0, 80, 4)), "no queue of old frames"
    assert 0.03 <= summary.ages.percentile(100) < 0.033
    told = [event for event in events if event.kind == "dropped"]
    assert len(told) == 2
    assert all("and the network takes one every" in event.message for event in told)
    assert told[-1].values["total"] == sum(event.values["dropped"] for event in told)  # type: ignore[misc]


def test_a_slow_output_is_the_reason_of_dropped_frames(
    entry: Callable[..., RunOptions], monkeypatch: pytest.MonkeyPatch
) -> None:
    told, write = threading.Event(), JsonlSink.write

    def tell(event: Event) -> None:
        if event.kind == "dropped" and ", and the outputs take " in event.message:
            told.set()

    monkeypatch.setattr(JsonlSink, "write", lambda *arguments: (told.wait(60), write(*arguments)))
    monkeypatch.setattr(drops, "_INTERVAL_S", 0.1)
    times = itertools.takewhile(lambda _: not told.is_set(), (i / 100 for i in range(6000)))
    finish(Streams(GreyBackend(), CONFIG), entry("a", times, queue="latest"), tell=tell)
    assert told.is_set()


def test_a_deadline_processes_a_burst_and_drops_what_is_too_old(
    entry: Callable[..., RunOptions], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = [3, 0, 0, 40, 0, 0, 0, 1]
    network = Bursts(monkeypatch, *[(frames, 0.03) for frames in calls])
    run, _ = finish(Streams(network, CONFIG), entry("a", network.script, queue=100.0))
    (summary,) = run.summaries
    assert summary.frames + summary.dropped == 45
    assert indices(tmp_path, "a") == [0, 1, 2, 3, 36, 37, 38, 39, 44], (
        "all of the short burst, and of the 8 frames of the long one that may wait those that are not too old"
    )
    assert summary.ages.percentile(100) < 0.13


@pytest.mark.parametrize(("burst", "told"), [(1, []), (20, [(19, 58)])])
def test_the_burst_of_a_new_connection_is_no_slow_network(
    entry: Callable[..., RunOptions],
    monkeypatch: pytest.MonkeyPatch,
    burst: int,
    told: list[tuple[int, int]],
) -> None:
    """Pictures that arrive together are counted; only those that are dropped later are told."""
    network = Bursts(monkeypatch, (40, 0.03), (burst, 20))
    camera = source_runner.open_source

    def connect(source: str, tell: Callable[[Event], None], **_: object) -> object:
        tell(Event("connected", "a", "sends frames of 32x64", {"width": 64, "height": 32}))
        return camera(source)

    monkeypatch.setattr(source_runner, "open_source", connect)
    run, events = finish(Streams(network, CONFIG), entry("a", network.script))
    assert run.summaries[0].dropped == 39 + burst - 1
    dropped = [event.values for event in events if event.kind == "dropped"]
    assert [(values["dropped"], values["total"]) for values in dropped] == told


def test_a_camera_that_hangs_and_a_disk_that_hangs_hold_up_nobody(
    entry: Callable[..., RunOptions], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on = threading.Event()
    write = JsonlSink.write

    def hang(self: JsonlSink, frame: Frame, result: object) -> None:
        if str(self.path).endswith("disk.jsonl"):
            go_on.wait(LIMIT_S)
        write(self, frame, result)  # type: ignore[arg-type]

    monkeypatch.setattr(JsonlSink, "write", hang)
    good = [i / 200 for i in range(60)]
    hanging = itertools.chain([0.0], [lambda: go_on.wait(LIMIT_S)])
    with Run(Streams(GreyBackend(), CONFIG), tell=lambda _: None) as run:
        run.add(entry("good", good, queue="block"))
        run.add(entry("other", good, queue="block"))
        run.add(entry("disk", good, queue="block"))
        run.add(entry("hanging", hanging))
        done: list = []
        thread = threading.Thread(target=lambda: done.extend(run.wait()))
        thread.start()
        until(lambda: not {"good", "other"} & {options.name for options in run.options})
        assert indices(tmp_path, "good") == indices(tmp_path, "other") == list(range(60))
        go_on.set()
        thread.join(60)
    assert [summary.frames for summary in done] == [60, 60, 60, 2]


def test_four_streams_give_what_each_gives_alone_and_one_that_breaks_costs_the_others_nothing(
    entry: Callable[..., RunOptions], tmp_path: Path
) -> None:
    names = "abcd"
    script = [i / 300 for i in range(50)]
    alone = []
    for name in names:
        finish(Streams(GreyBackend(), CONFIG), entry(name, script, live=False))
        alone.append(lines(tmp_path, name))
    assert all(len(written) == 50 for written in alone)

    lost = threading.Event()

    def lose() -> None:
        raise SourceError("c is lost; check the cable")

    def scripts(broken: bool) -> list[RunOptions]:
        others = [*script[:30], lambda: lost.wait(60), *script[31:]] if broken else script
        return [
            entry(name, [*script[:20], lose] if broken and name == "c" else others, live=False)
            for name in names
        ]

    def tell(event: Event) -> None:
        if event.kind == "ended":
            lost.set()

    run, _ = finish(Streams(GreyBackend(), CONFIG), *scripts(broken=False))
    assert [lines(tmp_path, name) for name in names] == alone
    assert not run.failed
    run, events = finish(Streams(GreyBackend(), CONFIG), *scripts(broken=True), tell=tell)
    assert [lines(tmp_path, name) for name in names] == [alone[0], alone[1], alone[2][:20], alone[3]]
    assert run.failed
    assert [str(summary.error or "") for summary in run.summaries] == [
        "",
        "",
        "c is lost; check the cable",
        "",
    ]
    ended = [(event.source, event.values.get("error", "")) for event in events if event.kind == "ended"]
    assert ended[0] == ("c", "c is lost; check the cable"), "told when it happened"


def test_sources_are_added_and_removed_while_running(
    entry: Callable[..., RunOptions], tmp_path: Path
) -> None:
    events: list[Event] = []
    endless = lambda: itertools.count(0, 1 / 200)  # noqa: E731
    streams = Streams(GreyBackend(), CONFIG)
    with Run(streams, tell=events.append) as run:
        run.add(entry("a", endless()))
        thread = threading.Thread(target=run.wait)
        thread.start()

        def frames(name: str) -> int:
            return max(
                (runner.summary.frames for runner in list(run._runners.values()) if runner.name == name),
                default=0,
            )

        until(lambda: frames("a") >= 3)
        run.add(entry("b", endless()))
        until(lambda: frames("b") >= 3)
        with pytest.raises(ConfigError, match="two sources have the same name: b"):
            run.add(entry("b", endless()))
        run.remove("b")
        with pytest.raises(ConfigError, match="no source is named z; add it first"):
            run.remove("z")
        run.add(entry("b", itertools.repeat(0.0, 5), live=False))  # waits for the end of the first one
        until(lambda: ("ended", "b") in [(event.kind, event.source) for event in list(events)])
        count = frames("a")
        until(lambda: frames("a") > count)
        run.stop()
        thread.join(60)
    assert not thread.is_alive()
    assert indices(tmp_path, "b") == list(range(5))
    assert len(indices(tmp_path, "a")) > count
    told = [(event.kind, event.source) for event in events if event.kind in ("added", "removed", "ended")]
    assert told[:3] == [("added", "b"), ("removed", "b"), ("added", "b")]
    assert sorted(told[3:]) == [("ended", "a"), ("ended", "b")]
    assert not streams._streams


def test_the_second_signal_ends_a_run_whose_disk_hangs(
    entry: Callable[..., RunOptions], monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on, hangs = threading.Event(), threading.Event()

    def hang(self: JsonlSink, frame: Frame, result: object) -> None:
        hangs.set()
        go_on.wait(LIMIT_S)

    monkeypatch.setattr(JsonlSink, "write", hang)
    monkeypatch.setattr(run_module, "JOIN_TIMEOUT_S", 0.1)

    with Run(Streams(GreyBackend(), CONFIG), tell=lambda _: None) as run:

        def signals() -> None:
            assert hangs.wait(60)
            os.kill(os.getpid(), signal.SIGTERM)
            until(lambda: run.interrupted)  # and waits for the disk
            os.kill(os.getpid(), signal.SIGTERM)

        run.add(entry("a", itertools.count(0, 1 / 100)))
        thread = threading.Thread(target=signals)
        thread.start()
        (summary,) = run.wait()
    assert not go_on.is_set()
    assert run.interrupted
    assert "an output hangs; check its disk" in str(summary.error)
    thread.join()
    go_on.set()


def test_an_error_of_the_function_for_events_ends_no_source(
    entry: Callable[..., RunOptions], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(event: Event) -> None:
        raise BrokenPipeError(event.kind)

    with Run(Streams(GreyBackend(), CONFIG), tell=fail) as run:
        run.add(entry("a", [0, 0, 0]))
        (summary,) = run.wait()
    assert summary.error is None
    assert "a: an event was not told: ended after" in caplog.text


def test_the_files_of_a_silent_camera_end(
    entry: Callable[..., RunOptions], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = threading.Event()
    end_part = JsonlSink.end_part

    def end(sink: JsonlSink) -> None:
        end_part(sink)
        if sink.frames_written:
            ended.set()

    monkeypatch.setattr(JsonlSink, "end_part", end)
    options = entry("a", [0.0, lambda: ended.wait(LIMIT_S)], files=FilePolicy(Limit(seconds=0.1)))
    finish(Streams(GreyBackend(), CONFIG), options)
    assert ended.is_set()
    assert [len(path.read_text().splitlines()) for path in tmp_path.glob("a-*.jsonl")] == [1, 1]


def test_sighup_continues_rotating_outputs_in_new_files(
    entry: Callable[..., RunOptions], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written, rotated = threading.Event(), threading.Event()
    write, rotate = JsonlSink.write, Run.rotate
    monkeypatch.setattr(JsonlSink, "write", lambda *arguments: (write(*arguments), written.set()))
    monkeypatch.setattr(Run, "rotate", lambda run: (rotate(run), rotated.set()))

    def hang_up() -> None:
        assert written.wait(60)
        os.kill(os.getpid(), signal.SIGHUP)
        assert rotated.wait(60)

    frames = [0.0, hang_up, lambda: None]
    options = entry("a", frames, live=False, files=FilePolicy.parse(rotate="1h"))
    run, events = finish(Streams(GreyBackend(), CONFIG), options)
    assert not run.interrupted
    assert sorted(len(path.read_text().splitlines()) for path in tmp_path.glob("a-*.jsonl")) == [1, 2]
    assert "rotated" in {event.kind for event in events}
