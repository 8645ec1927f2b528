"""OpenCV captures: rates, log messages, frames that were not written, and missing packages."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from idol_runtime.errors import MissingDependencyError, SourceError
from idol_runtime.sources.opening import open_source
from samples.captures import FakeCapture, read_all, write_images, write_video

cv2 = pytest.importorskip("cv2")


def test_opencv_and_ffmpeg_keep_quiet(tmp_path: Path) -> None:
    """Runs in its own process: the libraries write to stderr directly."""
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


def test_without_the_packages(video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("cv2", "av", "av.filter"):
        monkeypatch.setitem(sys.modules, module, None)
    for source, complaint in ((video, "reading video needs av"), (0, "reading a camera needs opencv-python")):
        with pytest.raises(MissingDependencyError, match=rf"{complaint}.*idol-deploy\[video\]"):
            open_source(source)
    assert len(read_all(write_images(tmp_path / "images", ["0.png", "1.png"]))) == 2


@pytest.mark.parametrize("rate", [90_000.0, 1000.5, 0.0, -25.0, float("nan"), float("inf")])
def test_a_rate_that_cannot_be_is_unknown(fake: list[Any], rate: float) -> None:
    fake.append(FakeCapture([(8, 8)] * 3, fps=rate))
    with open_source(0) as source:
        assert source.fps is None


def test_the_highest_rate_that_is_believed(fake: list[Any]) -> None:
    fake.append(FakeCapture([(8, 8)] * 3, fps=1000.0))
    with open_source(0, stride=2) as source:
        assert source.fps == 500


def test_an_undecodable_frame_is_named(fake: list[Any]) -> None:
    fake.append(FakeCapture([(8, 8), (0, 0)]))
    with open_source(0) as source, pytest.raises(SourceError, match="frame 1 of camera 0 cannot be decoded"):
        list(source)


class Untouched(FakeCapture):
    """A decoder that reports success without writing the picture."""

    def retrieve(self, buffer: NDArray[np.uint8] | None = None) -> tuple[bool, NDArray[np.uint8] | None]:
        return super().retrieve() if buffer is None else (True, buffer)


class Grey(FakeCapture):
    """A camera whose pictures have the value of a filling."""

    def retrieve(self, buffer: NDArray[np.uint8] | None = None) -> tuple[bool, NDArray[np.uint8] | None]:
        return True, np.full((8, 8, 3), 0x55, np.uint8)


def test_a_frame_that_was_not_written_is_found(fake: list[Any]) -> None:
    fake.append(Untouched([(8, 8)] * 3))
    with open_source(0) as source, pytest.raises(SourceError, match="frame 1 of camera 0 cannot be decoded"):
        list(source)


def test_a_picture_of_one_value_is_a_picture(fake: list[Any]) -> None:
    fake.append(Grey([(8, 8)] * 3))
    assert [int(frame.image[0, 0, 0]) for frame in read_all(0, max_frames=3)] == [0x55] * 3
