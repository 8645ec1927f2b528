"""OpenCV captures: rates, log messages, and a missing OpenCV."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from idol_runtime.errors import MissingDependencyError
from idol_runtime.sources.opening import open_source
from samples.captures import FakeCapture, read_all, write_images, write_video

cv2 = pytest.importorskip("cv2")


def test_opencv_keeps_quiet(tmp_path: Path) -> None:
    """Runs in its own process: FFmpeg reads its log level once, and other tests may have opened a video before."""
    (tmp_path / "notes.mp4").write_text("no video")
    whole = write_video(tmp_path / "whole.avi", noise=True).read_bytes()
    (tmp_path / "cut.avi").write_bytes(whole[: len(whole) // 2])
    program = """
import contextlib
from idol_runtime.errors import SourceError
from idol_runtime.sources.opening import open_source
for source in ("notes.mp4", 97, "cut.avi", "rtsp://user:hunter2@127.0.0.1:9/live"):
    with contextlib.suppress(SourceError):
        list(open_source(source))
"""
    run = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert run.stdout + run.stderr == ""


def test_without_opencv(video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(
        MissingDependencyError, match=r"reading video needs opencv-python.*idol-deploy\[video\]"
    ):
        open_source(video)
    assert len(read_all(write_images(tmp_path / "images", ["0.png", "1.png"]))) == 2


@pytest.mark.parametrize("rate", [90_000.0, 1000.5, 0.0, -25.0, float("nan"), float("inf")])
def test_a_rate_that_cannot_be_is_unknown(fake: list[Any], rate: float) -> None:
    """Some streams state their time base instead: 90000 for RTSP."""
    fake.append(FakeCapture([(8, 8)] * 3, 0, fps=rate, clock=False))
    with open_source("rtsp://10.0.0.7/live") as source:
        assert source.fps is None


def test_the_highest_rate_that_is_believed(fake: list[Any]) -> None:
    fake.append(FakeCapture([(8, 8)] * 3, 0, fps=1000.0))
    with open_source("rtsp://10.0.0.7/live", stride=2) as source:
        assert source.fps == 500
