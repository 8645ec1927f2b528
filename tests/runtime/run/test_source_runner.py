"""Sources in a run: queues, frame ages, and sources that come, go, hang and break."""

import itertools
import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import pytest

from idol_runtime.errors import ConfigError, SourceError
from idol_runtime.events import Event
from idol_runtime.frames import Frame
from idol_runtime.run import drops, source_runner
from idol_runtime.run import run as run_module
from idol_runtime.run.options import RunOptions
from idol_runtime.run.run import Run
from idol_runtime.sinks.jsonl import JsonlSink
from idol_runtime.sinks.opening import requested_outputs
from idol_runtime.sinks.policy import FilePolicy, Limit
from idol_runtime.streams import Streams
from samples.grey import CONFIG, GreyBackend


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
            if callable(due):
                due()
            elif self._closed.wait(begin + due - time.monotonic()):
                return
            brightness = 100 + 10 * (t % 5)
            image = np.full((32, 64, 3), brightness, np.uint8)
            yield Frame(t, t / 30, image, arrived_s=time.monotonic())


class SlowBackend(GreyBackend):
    """A network that needs a fixed time for a frame."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.seconds = seconds

    def infer(self, images: np.ndarray) -> list:
        time.sleep(self.seconds)
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


def finish(streams: Streams, *entries: RunOptions) -> tuple[Run, list[Event]]:
    events: list[Event] = []
    with Run(streams, tell=events.append) as run:
        for options in entries:
            run.add(options)
        run.summaries = run.wait()  # type: ignore[attr-defined]
    return run, events


def test_a_fast_camera_waits_for_the_network_alone(
    entry: Callable[..., RunOptions], monkeypatch: pytest.MonkeyPatch
) -> None:
    """120 frames a second into a network that processes 33; `benchmarks.live` measures the ages."""
    monkeypatch.setattr(drops, "_INTERVAL_S", 0.8)
    times = itertools.count(0, 1 / 120)
    run, events = finish(Streams(SlowBackend(0.03), CONFIG), entry("fast", times, max_frames=100))
    (summary,) = run.summaries
    assert (summary.frames, summary.ages.count) == (100, 100)
    assert summary.dropped > 200
    assert 0.03 < summary.ages.percentile(50) < 0.12, "no queue of old frames"
    told = [event for event in events if event.kind == "dropped"]
    assert 1 <= len(told) <= 3
    assert all("and the network takes one every" in event.message for event in told)
    assert told[-1].values["total"] == sum(event.values["dropped"] for event in told)  # type: ignore[misc]


def test_a_slow_output_is_the_reason_of_dropped_frames(
    entry: Callable[..., RunOptions], monkeypatch: pytest.MonkeyPatch
) -> None:
    write = JsonlSink.write
    monkeypatch.setattr(JsonlSink, "write", lambda *arguments: (time.sleep(0.05), write(*arguments)))
    monkeypatch.setattr(drops, "_INTERVAL_S", 0.3)
    _, events = finish(
        Streams(GreyBackend(), CONFIG), entry("a", (i / 100 for i in range(80)), queue="latest")
    )
    told = [event.message for event in events if event.kind == "dropped"]
    assert any("and the outputs take one every" in message for message in told)


def test_a_deadline_processes_a_burst_and_drops_what_is_too_old(entry: Callable[..., RunOptions]) -> None:
    burst = [0.0] * 4 + [0.5 + i / 500 for i in range(40)] + [1.2]
    run, _ = finish(Streams(SlowBackend(0.02), CONFIG), entry("a", burst, queue=100.0))
    (summary,) = run.summaries
    assert summary.frames + summary.dropped == 45
    assert 4 + 1 + 4 <= summary.frames <= 4 + 1 + 14, "all of the short burst, and a part of the long one"
    assert summary.ages.percentile(100) < 0.18


@pytest.mark.parametrize(("slow_s", "told"), [(0.0, False), (0.5, True)])
def test_the_burst_of_a_new_connection_is_no_slow_network(
    entry: Callable[..., RunOptions], monkeypatch: pytest.MonkeyPatch, slow_s: float, told: bool
) -> None:
    """Pictures that arrive together are counted; only those that are dropped later are told."""
    monkeypatch.setattr(source_runner, "_BURST_S", 0.4)
    monkeypatch.setattr(drops, "_INTERVAL_S", 0.1)
    camera = source_runner.open_source

    def connect(source: str, tell: Callable[[Event], None], **_: object) -> object:
        tell(Event("connected", "a", "sends frames of 32x64", {"width": 64, "height": 32}))
        return camera(source)

    monkeypatch.setattr(source_runner, "open_source", connect)
    burst = [*[0.0] * 40, *(0.6 + t / 200 for t in range(int(200 * slow_s))), 1.2]
    run, events = finish(Streams(SlowBackend(0.03), CONFIG), entry("a", burst))
    dropped = [event.values for event in events if event.kind == "dropped"]
    assert run.summaries[0].dropped > 30
    assert bool(dropped) == told
    assert all(values["dropped"] <= values["total"] - 30 for values in dropped)  # type: ignore[operator]


def test_a_camera_that_hangs_and_a_disk_that_hangs_hold_up_nobody(
    entry: Callable[..., RunOptions], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on = threading.Event()
    write = JsonlSink.write

    def hang(self: JsonlSink, frame: Frame, result: object) -> None:
        if str(self.path).endswith("disk.jsonl"):
            go_on.wait(20)
        write(self, frame, result)  # type: ignore[arg-type]

    monkeypatch.setattr(JsonlSink, "write", hang)
    good = [i / 200 for i in range(60)]
    hanging = itertools.chain([0.0], [lambda: go_on.wait(20)])
    with Run(Streams(GreyBackend(), CONFIG), tell=lambda _: None) as run:
        run.add(entry("good", good, queue="block"))
        run.add(entry("other", good, queue="block"))
        run.add(entry("disk", good, queue="block"))
        run.add(entry("hanging", hanging))
        done: list = []
        thread = threading.Thread(target=lambda: done.extend(run.wait()))
        thread.start()
        deadline = time.monotonic() + 10
        while len({"good", "other"} & {options.name for options in list(run._options.values())}):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert indices(tmp_path, "good") == indices(tmp_path, "other") == list(range(60))
        go_on.set()
        thread.join(20)
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

    def lose() -> None:
        raise SourceError("c is lost; check the cable")

    def scripts(broken: bool) -> list[RunOptions]:
        return [
            entry(name, [*script[:20], lose] if broken and name == "c" else script, live=False)
            for name in names
        ]

    run, _ = finish(Streams(GreyBackend(), CONFIG), *scripts(broken=False))
    assert [lines(tmp_path, name) for name in names] == alone
    assert not run.failed
    run, events = finish(Streams(GreyBackend(), CONFIG), *scripts(broken=True))
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

        def until(condition: Callable[[], object]) -> None:
            deadline = time.monotonic() + 10
            while not condition():
                assert time.monotonic() < deadline
                time.sleep(0.005)

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
        run.stop()
        thread.join(10)
    assert not thread.is_alive()
    assert indices(tmp_path, "b") == list(range(5))
    assert len(indices(tmp_path, "a")) > 6
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
        go_on.wait(20)

    monkeypatch.setattr(JsonlSink, "write", hang)
    monkeypatch.setattr(run_module, "JOIN_TIMEOUT_S", 0.1)

    def signals() -> None:
        hangs.wait(10)
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.5)  # the first one waits for the disk

    thread = threading.Thread(target=signals)
    thread.start()
    run, _ = finish(Streams(GreyBackend(), CONFIG), entry("a", itertools.count(0, 1 / 100)))
    assert not go_on.is_set()
    assert run.interrupted
    assert "an output hangs; check its disk" in str(run.summaries[0].error)
    thread.join()
    go_on.set()
    for writer in [thread for thread in threading.enumerate() if thread.name == "idol-writer"]:
        writer.join(10)


def test_a_second_sighup_drops_no_results() -> None:
    """A closed terminal sends two: one from the kernel and one from the shell."""
    with Run(Streams(GreyBackend(), CONFIG)) as run:
        run._on_signal(signal.SIGHUP, None)
        assert run.interrupted
        run._on_signal(signal.SIGHUP, None)
        with pytest.raises(KeyboardInterrupt):
            run._on_signal(signal.SIGTERM, None)


def test_sighup_rotates_further_files_also_without_sources() -> None:
    rotations: list[str] = []
    with Run(Streams(GreyBackend(), CONFIG), rotate=lambda: rotations.append("")) as run:
        run._on_signal(signal.SIGHUP, None)
        assert rotations
        assert not run.interrupted


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
    options = entry("a", [0.0, lambda: ended.wait(20)], files=FilePolicy(Limit(seconds=0.1)))
    finish(Streams(GreyBackend(), CONFIG), options)
    assert ended.is_set()
    assert [len(path.read_text().splitlines()) for path in tmp_path.glob("a-*.jsonl")] == [1, 1]


def test_sighup_continues_rotating_outputs_in_new_files(
    entry: Callable[..., RunOptions], tmp_path: Path
) -> None:
    def hang_up() -> None:
        time.sleep(0.3)  # the first frame is written
        os.kill(os.getpid(), signal.SIGHUP)
        time.sleep(0.3)

    frames = [0.0, hang_up, lambda: None]
    options = entry("a", frames, live=False, files=FilePolicy.parse(rotate="1h"))
    run, events = finish(Streams(GreyBackend(), CONFIG), options)
    assert not run.interrupted
    assert sorted(len(path.read_text().splitlines()) for path in tmp_path.glob("a-*.jsonl")) == [1, 2]
    assert "rotated" in {event.kind for event in events}
