"""The observer of a run: one report per frame, whose stages are the time of the frame."""

import logging
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from idol_runtime.frames import Frame
from idol_runtime.run.observer import STAGES, FrameReport
from idol_runtime.run.options import RunOptions
from idol_runtime.run.run import Run
from idol_runtime.sinks.jsonl import JsonlSink
from idol_runtime.sinks.opening import requested_outputs
from idol_runtime.streams import Streams
from samples.grey import CONFIG, GreyBackend
from samples.waiting import until
from servers.mjpeg import MjpegServer


@pytest.fixture
def slow_write(monkeypatch: pytest.MonkeyPatch) -> None:
    """An output that needs 10 ms for a frame."""
    write = JsonlSink.write

    def wait(self: JsonlSink, frame: Frame, result: object) -> None:
        time.sleep(0.01)
        write(self, frame, result)

    monkeypatch.setattr(JsonlSink, "write", wait)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    for t in range(8):
        Image.fromarray(np.full((32, 64, 3), 100 + t, np.uint8)).save(folder / f"{t}.png")
    return folder


@pytest.mark.usefixtures("slow_write")
def test_the_stages_of_a_camera_add_up_to_the_age_of_the_frame(tmp_path: Path) -> None:
    class SlowBackend(GreyBackend):
        """A network that needs 30 ms for a frame, and longer than its camera."""

        def infer(self, images: np.ndarray) -> list:
            time.sleep(0.03)
            until(lambda: run._runners[0]._queue.dropped > len(self.seen))
            return super().infer(images)

    reports: list[FrameReport] = []
    with (
        MjpegServer((32, 64), 100) as camera,
        Run(Streams(SlowBackend(), CONFIG), observe=reports.append) as run,
    ):
        run.add(RunOptions(camera.url, requested_outputs(jsonl=tmp_path / "a"), name="door", max_frames=15))
        run.wait()
    assert [report.frames for report in reports] == list(range(1, 16))
    assert {report.source for report in reports} == {"door"}
    assert reports[-1].dropped > 10
    for report in reports:
        assert tuple(report.stages) == STAGES
        assert min(report.stages.values()) >= 0
        assert report.age_s == pytest.approx(sum(report.stages.values()) - report.stages["write"])
        assert report.stages["network"] >= 0.03
        assert report.stages["write"] >= 0.01


def test_a_report_has_the_visible_result_and_no_age_for_a_file(images: Path, tmp_path: Path) -> None:
    reports: list[FrameReport] = []
    with Run(Streams(GreyBackend(), CONFIG), observe=reports.append) as run:
        run.add(RunOptions(images, requested_outputs(jsonl=tmp_path / "a"), score=0.84))
        run.wait()
    assert [report.frame.index for report in reports] == list(range(8))
    scores = [1 / (1 + np.exp(-(100 + t) / 64)) for t in range(8)]
    assert [len(report.result) for report in reports] == [score >= 0.84 for score in scores] != [True] * 8
    assert {(report.age_s, report.dropped, report.tracks) for report in reports} == {(None, 0, 1)}
    assert "wait" not in reports[0].stages


def test_an_observer_that_fails_is_left_out_and_named_once(
    images: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    calls = []

    def fail(report: FrameReport) -> None:
        calls.append(report)
        raise ZeroDivisionError

    with Run(Streams(GreyBackend(), CONFIG), observe=fail) as run:
        run.add(RunOptions(images, requested_outputs(jsonl=tmp_path / "a"), name="door"))
        (summary,) = run.wait()
    assert (summary.frames, summary.error, len(calls)) == (8, None, 1)
    assert (tmp_path / "a").read_bytes().count(b"\n") == 8
    (record,) = (r for r in caplog.records if r.levelno == logging.ERROR)
    assert record.getMessage() == "door: frames are no longer observed"


def test_the_age_of_the_last_step_grows_while_the_network_hangs() -> None:
    class Hanging(GreyBackend):
        def infer(self, images: np.ndarray) -> list:
            time.sleep(0.3)
            ages.append(run.step_age_s)
            return super().infer(images)

    ages: list[float] = []
    with (
        MjpegServer((32, 64), 100) as camera,
        Run(Streams(Hanging(), CONFIG), observe=lambda _: ages.append(run.step_age_s)) as run,
    ):
        run.add(RunOptions(camera.url, name="door", max_frames=2))
        assert [options.name for options in run.options] == ["door"]
        run.wait()
        assert run.options == []
    assert ages[0] >= 0.3
