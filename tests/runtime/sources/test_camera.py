"""Cameras: what is one, rates, log messages, frames that were not written, missing packages, and the end."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from idol_runtime.errors import MissingDependencyError, SourceError
from idol_runtime.sources.camera import CameraReader
from idol_runtime.sources.opening import open_source, reader_kind, source_label
from samples.captures import FakeCapture, read_all, write_images, write_video

cv2 = pytest.importorskip("cv2")


@pytest.mark.parametrize("source", [97, "97"])
def test_a_camera_that_is_not_there(source: int | str) -> None:
    with pytest.raises(SourceError, match="cannot open camera 97"):
        open_source(source)


@pytest.mark.parametrize("source", [-1, "-1", True, 2**31, 10**11])
def test_no_camera_index(source: int | str) -> None:
    with pytest.raises(SourceError, match="camera index lies between 0 and"):
        open_source(source)


def test_a_camera_is_live_and_names_its_end(fake: list[Any]) -> None:
    capture = FakeCapture([(8, 8)] * 3)
    fake.append(capture)
    seen = []
    with open_source(0) as source:
        assert source.live
        assert source.frame_count is None
        with pytest.raises(SourceError, match="camera 0 stopped sending at frame 3"):
            seen.extend(source)
    assert len(seen) == 3
    assert seen[0].time_s == 0 < seen[1].time_s < seen[2].time_s
    assert capture.released


def test_a_camera_without_frames(fake: list[Any]) -> None:
    fake.append(FakeCapture([]))
    with pytest.raises(SourceError, match="camera 0 has no frames"):
        open_source("0")


def test_a_device_is_a_camera(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[Any] = []
    monkeypatch.setattr(cv2, "VideoCapture", lambda *args: opened.append(args) or FakeCapture([(8, 8)]))
    (tmp_path / "front").symlink_to("/dev/video97")
    for source in ("/dev/video97", Path("/dev/video97"), tmp_path / "front"):
        assert reader_kind(source) is CameraReader
        assert source_label(source) == "video97"
        open_source(source).close()
    assert opened == [("/dev/video97", cv2.CAP_V4L2)] * 3


def test_a_number_that_is_a_path_is_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_images(tmp_path / "00001", ["0.png", "1.png"])
    monkeypatch.chdir(tmp_path)
    assert len(read_all("00001")) == 2
    assert reader_kind("00002") is reader_kind(1) is CameraReader


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
