"""Runs of several sources: same results as alone, independent errors, and no waiting for cameras."""

import itertools
import json
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from idol_runtime.errors import BackendError, ConfigError, FrameError, OutputError, SourceError
from idol_runtime.frames import Frame
from idol_runtime.run import run as run_module
from idol_runtime.run import source_runner
from idol_runtime.run.options import RunOptions, RunSummary, for_each_source
from idol_runtime.run.run import Run, run
from idol_runtime.sinks.jsonl import JsonlSink
from idol_runtime.sinks.opening import requested_outputs
from idol_runtime.sources.opening import open_source
from idol_runtime.streams import Streams
from idol_runtime.tracking.detection import NetworkOutput
from samples.grey import CONFIG, GreyBackend
from samples.waiting import LIMIT_S, until

pytestmark = pytest.mark.usefixtures("no_thread_is_left")


@pytest.fixture
def folders(tmp_path: Path) -> list[Path]:
    """Folders of 9, 4 and 6 frames, with different frame sizes."""
    found = []
    for i, (count, size) in enumerate(((9, (32, 64)), (4, (64, 32)), (6, (32, 32)))):
        folder = tmp_path / f"clip{i}"
        folder.mkdir()
        for t in range(count):
            Image.fromarray(np.full((*size, 3), 20 * i + 10 * t, np.uint8)).save(folder / f"{t}.png")
        found.append(folder)
    return found


def options(sources: Sequence[Path | str]) -> list[RunOptions]:
    return [RunOptions(source, requested_outputs(jsonl=out(source))) for source in sources]


def out(source: Path | str) -> Path:
    return Path(f"{source}.jsonl")


def count(source: Path | str) -> list[int]:
    """Return the frame indices in a source's output."""
    return [json.loads(line)["frame"] for line in out(source).read_text().splitlines()]


def test_several_sources_give_what_each_gives_alone(folders: list[Path]) -> None:
    alone = []
    for folder in folders:
        assert [s.frames for s in run(Streams(GreyBackend(), CONFIG), options([folder]))] == [
            len(list(folder.iterdir()))
        ]
        alone.append(out(folder).read_bytes())
    backend = GreyBackend()
    summaries = run(Streams(backend, CONFIG), options(folders))
    assert [out(folder).read_bytes() for folder in folders] == alone
    assert [(s.source, s.frames, s.tracks) for s in summaries] == [
        (str(folder), frames, 1) for folder, frames in zip(folders, (9, 4, 6), strict=True)
    ]
    assert not any(s.interrupted or s.error for s in summaries)


def test_frames_of_one_size_go_together_until_a_source_ends(folders: list[Path]) -> None:
    class SlowBackend(GreyBackend):
        def infer(self, images: np.ndarray) -> list[NetworkOutput]:
            until(lambda: all(runner.ready for runner in process._runners.values()))
            return super().infer(images)

    backend = SlowBackend()
    twice = [
        RunOptions(folders[0], requested_outputs(jsonl=folders[0] / "a")),
        RunOptions(folders[0] / "[0-3].png", requested_outputs(jsonl=folders[0] / "b")),
    ]
    with Run(Streams(backend, CONFIG)) as process:
        for one in twice:
            process.add(one)
        process.wait()
    assert sum(backend.seen) == 13
    assert backend.seen.count(2) in (3, 4), "the first round may have one frame only"


def test_a_source_that_breaks_ends_alone(folders: list[Path]) -> None:
    (folders[0] / "3.png").write_bytes(b"no image")
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(folders[2] / "5.png")
    summaries = run(Streams(GreyBackend(), CONFIG), options(folders))
    assert [count(folder) for folder in folders] == [[0, 1, 2], [0, 1, 2, 3], [0, 1, 2, 3, 4]]
    assert [type(s.error) for s in summaries] == [SourceError, type(None), FrameError]
    assert "3.png" in str(summaries[0].error)
    with pytest.raises(SourceError, match=r"3\.png"):
        run(Streams(GreyBackend(), CONFIG), options(folders[:1]))


def test_an_output_that_breaks_ends_its_source_alone(
    folders: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    write = JsonlSink.write

    def full(self: JsonlSink, frame: Frame, result: object) -> None:
        if self.path == out(folders[0]) and frame.index == 2:
            raise OutputError("the disk is full")
        write(self, frame, result)  # type: ignore[arg-type]

    monkeypatch.setattr(JsonlSink, "write", full)
    summaries = run(Streams(GreyBackend(), CONFIG), options(folders))
    assert [str(s.error or "") for s in summaries] == ["the disk is full", "", ""]
    assert [count(folder) for folder in folders] == [[0, 1], [0, 1, 2, 3], list(range(6))]


def test_only_complete_outputs_of_this_run_are_listed(
    folders: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder in folders:
        out(folder).write_text("earlier")

    def full(self: JsonlSink) -> None:
        raise OutputError("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(JsonlSink, "_end", full)
        summaries = run(Streams(GreyBackend(), CONFIG), options(folders[1:]))
    assert [summary.paths for summary in summaries] == [(), ()]
    assert [count(folder) for folder in folders[1:]] == [list(range(4)), list(range(6))], (
        "what was written stays"
    )
    assert out(folders[0]).read_text() == "earlier"
    summaries = run(Streams(GreyBackend(), CONFIG), options(folders[1:]))
    assert [summary.paths for summary in summaries] == [(out(folder),) for folder in folders[1:]]


class Camera:
    """A camera that sends a frame whenever `go_on` is released."""

    name, fps, frame_count, live, size = "camera", None, None, True, (32, 64)

    def __init__(self) -> None:
        self.go_on = threading.Semaphore(0)

    def close(self) -> None:
        """Do nothing."""

    def __iter__(self) -> Iterator[Frame]:
        for t in range(3):
            assert self.go_on.acquire(timeout=120)
            yield Frame(t, float(t), np.full((32, 64, 3), 100, np.uint8))


def test_a_saved_video_has_the_times_of_its_source(tmp_path: Path) -> None:
    """As browsers record: times in milliseconds, and no frame rate."""
    from samples.captures import write_stream

    source, saved, times = tmp_path / "a.mkv", tmp_path / "b.mp4", [0.0, 0.043, 0.067, 0.5, 2.0]
    source.write_bytes(write_stream(times))
    (summary,) = run(Streams(GreyBackend(), CONFIG), [RunOptions(source, requested_outputs(save=saved))])
    assert (summary.frames, summary.paths) == (5, (saved,))
    assert summary.notes == (f"{saved} is H.264, encoded by libx264",)
    with open_source(saved) as video:
        assert [frame.time_s for frame in video] == pytest.approx(times, abs=1e-4)


def test_the_newest_frames_of_a_stream_are_saved_at_their_times(tmp_path: Path) -> None:
    from samples.captures import write_stream

    class SlowBackend(GreyBackend):
        def infer(self, images: np.ndarray) -> list[NetworkOutput]:
            until(lambda: process._runners[0]._queue.dropped > 5)
            return super().infer(images)

    pipe, saved, lines = tmp_path / "pipe", tmp_path / "b.mp4", tmp_path / "b.jsonl"
    os.mkfifo(pipe)
    times = [0.04 * i**1.1 for i in range(30)]
    threading.Thread(target=lambda: pipe.write_bytes(write_stream(times)), daemon=True).start()
    outputs = requested_outputs(save=saved, jsonl=lines)
    with Run(Streams(SlowBackend(), CONFIG)) as process:
        process.add(RunOptions(pipe, outputs, queue="latest"))
        (summary,) = process.wait()
    shown = [json.loads(line)["time_s"] for line in lines.read_text().splitlines()]
    assert summary.frames < 25
    assert max(min(abs(time_s - t) for t in times) for time_s in shown) < 0.001
    with open_source(saved) as video:
        assert [frame.time_s for frame in video] == pytest.approx([t - shown[0] for t in shown], abs=1e-4)


def test_files_do_not_wait_for_a_camera(folders: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    camera, opened = Camera(), source_runner.open_source
    monkeypatch.setattr(
        source_runner, "open_source", lambda s, **how: camera if s == "camera" else opened(s, **how)
    )
    done: list[RunSummary] = []
    sources = [str(folders[0].parent / "camera"), folders[0], folders[1]]
    run_options = [RunOptions("camera", requested_outputs(jsonl=out(sources[0]))), *options(sources[1:])]
    thread = threading.Thread(target=lambda: done.extend(run(Streams(GreyBackend(), CONFIG), run_options)))
    thread.start()
    for folder in folders[:2]:  # complete, although the camera has sent nothing
        frames = list(range(len(list(folder.iterdir()))))
        until(lambda: out(folder).exists() and count(folder) == frames)  # noqa: B023
    assert not done
    camera.go_on.release(3)
    thread.join(60)
    assert [s.frames for s in done] == [3, 9, 4]
    assert count(sources[0]) == [0, 1, 2]


def test_dropped_frames_do_not_count_towards_the_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    frames = (Frame(t, t / 30, np.full((32, 64, 3), 100, np.uint8)) for t in itertools.count())

    class Fast(Camera):
        def __iter__(self) -> Iterator[Frame]:
            return frames

    monkeypatch.setattr(
        source_runner, "open_source", lambda _, **how: Fast() if how["max_frames"] is None else None
    )
    entry = RunOptions("camera", requested_outputs(jsonl=tmp_path / "a"), queue="latest", max_frames=9)
    (summary,) = run(Streams(GreyBackend(), CONFIG), [entry])
    assert summary.frames == 9
    assert all(note.startswith("camera: ") and "dropped" in note for note in summary.notes)
    assert next(frames).index > 9


def test_ctrl_c_finishes_the_outputs_of_all(folders: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    track = Streams.track

    def interrupted(self: Streams, prepared: dict[int, object], times: dict[int, float]) -> object:
        if 0 in prepared and self.join(0)._index == 5:
            signal.raise_signal(signal.SIGINT)
        return track(self, prepared, times)  # type: ignore[type-var]

    monkeypatch.setattr(Streams, "track", interrupted)
    summaries = run(Streams(GreyBackend(), CONFIG), options(folders))
    counts = [count(folder) for folder in folders]
    assert counts[0] == list(range(6)), "the frame in work is finished"
    assert [len(frames) for frames in counts] == [summary.frames for summary in summaries]
    assert all(s.interrupted for s in summaries)


def test_a_network_that_fails_ends_all_and_loses_nothing(folders: list[Path]) -> None:
    backend = GreyBackend()
    infer = backend.infer

    def failing(images: np.ndarray) -> list[NetworkOutput]:
        if len(backend.seen) == 6:
            raise BackendError("out of memory")
        return infer(images)

    backend.infer = failing  # type: ignore[method-assign]
    streams = Streams(backend, CONFIG)
    tracked: list[int] = []
    track = streams.track
    streams.track = lambda *frames: tracked.extend(results := track(*frames)) or results  # type: ignore[method-assign]
    with pytest.raises(BackendError, match="out of memory"):
        run(streams, options(folders))
    assert 3 < len(tracked) <= 6
    assert [count(folder) for folder in folders] == [list(range(tracked.count(i))) for i in range(3)]


def test_a_source_is_never_replaced(folders: list[Path]) -> None:
    image = folders[0] / "0.png"
    before, backend = image.read_bytes(), GreyBackend()
    pattern = RunOptions("", requested_outputs(results=Path(f"{folders[0]}/{{source}}.png")))
    with pytest.raises(ConfigError, match=r"0\.png is an input as well; give the output another name"):
        run(Streams(backend, CONFIG), for_each_source(pattern, [image]))
    assert (image.read_bytes(), backend.seen) == (before, [])


def test_a_source_that_cannot_be_opened_is_reported_before_any_frame(folders: list[Path]) -> None:
    backend = GreyBackend()
    with pytest.raises(SourceError, match="check the path"):
        run(Streams(backend, CONFIG), options([*folders, folders[0] / "gone"]))
    assert backend.seen == []
    assert not any(out(folder).exists() for folder in folders)


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


def test_an_output_that_hangs_is_named_also_if_the_frames_are_interrupted(
    folders: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second signal may come while the sources still run."""
    hangs, go_on = threading.Event(), threading.Event()

    class Interrupted(GreyBackend):
        def infer(self, images: np.ndarray) -> list[NetworkOutput]:
            if self.seen:
                until(hangs.is_set)
                raise KeyboardInterrupt
            return super().infer(images)

    monkeypatch.setattr(run_module, "JOIN_TIMEOUT_S", 0.1)
    monkeypatch.setattr(JsonlSink, "write", lambda *_: (hangs.set(), go_on.wait(LIMIT_S)))
    with Run(Streams(Interrupted(), CONFIG)) as process:
        process.add(*options(folders[:1]))
        (summary,) = process.wait()
    assert "an output hangs; check its disk" in str(summary.error)
    go_on.set()
