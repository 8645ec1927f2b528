"""Annotated videos: what they contain, and what is left after a failure."""

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from idol_runtime.errors import ConfigError, FrameError, OutputError
from idol_runtime.sinks.video import VideoSink
from samples.results import SIZE, context, frame, nothing, result

cv2 = pytest.importorskip("cv2")


def video_sink(path: Path, **facts: Any) -> VideoSink:
    return VideoSink(path, context(**facts))


def read_video(path: Path) -> tuple[float, list[NDArray[np.uint8]]]:
    capture = cv2.VideoCapture(str(path))
    frames = []
    while True:
        read, image = capture.read()
        if not read:
            return float(capture.get(cv2.CAP_PROP_FPS)), frames
        frames.append(image)


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".avi", ".MP4"])
@pytest.mark.parametrize("fps", [30.0, 29.97, 7.4925])
def test_a_video_reads_back(tmp_path: Path, suffix: str, fps: float) -> None:
    with video_sink(tmp_path / f"out{suffix}", fps=fps, caption="untrained weights") as sink:
        for i in range(12):
            sink.write(frame(i), result())
    rate, frames = read_video(tmp_path / f"out{suffix}")
    assert rate == pytest.approx(fps, abs=0.01)
    assert [image.shape for image in frames] == [(*SIZE, 3)] * 12
    blue, green, red = frames[5][25, 35]
    assert (int(blue), int(green), int(red)) != (128, 128, 128)


@pytest.mark.parametrize("size", [(47, 64), (48, 63), (47, 63), (1, 1)])
def test_odd_sizes_grow_to_even(tmp_path: Path, size: tuple[int, int]) -> None:
    with video_sink(tmp_path / "out.mp4", size=size) as sink:
        sink.write(frame(size=size), nothing(size))
    ((image),) = read_video(tmp_path / "out.mp4")[1]
    assert image.shape[:2] == (size[0] + size[0] % 2, size[1] + size[1] % 2)
    assert np.abs(image.astype(int) - 128).max() < 8


@pytest.mark.parametrize("name", ["out.gif", "out", "out.jsonl"])
def test_no_video_suffix(tmp_path: Path, name: str) -> None:
    with pytest.raises(OutputError, match=r"\.mp4 or \.mkv or \.avi"):
        video_sink(tmp_path / name)


@pytest.mark.parametrize("fps", [0.0, -1.0, float("nan"), float("inf"), 1e6])
def test_an_impossible_rate(tmp_path: Path, fps: float) -> None:
    with pytest.raises(ConfigError, match="frames per second"):
        video_sink(tmp_path / "out.mp4", fps=fps)


def test_a_frame_of_another_size(tmp_path: Path) -> None:
    with (
        video_sink(tmp_path / "out.mp4") as sink,
        pytest.raises(FrameError, match=r"frame 7 is 10x20, but the video is 48x64"),
    ):
        sink.write(frame(7, (10, 20)), nothing((10, 20)))


def test_an_encoder_that_refuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        cv2, "VideoWriter", lambda *_: SimpleNamespace(isOpened=lambda: False, release=lambda: None)
    )
    with pytest.raises(OutputError, match=r"OpenCV cannot write .*out\.mp4 as mp4v at 64x48"):
        video_sink(tmp_path / "out.mp4")
    assert not list(tmp_path.iterdir())


def test_a_full_disk_finishes_the_video(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sink = video_sink(tmp_path / "out.mp4")
    sink.write(frame(0), result())
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    with pytest.raises(OutputError, match="disk is full"), sink:
        sink.write(frame(1), result())
    assert len(read_video(tmp_path / "out.mp4")[1]) == 1


def test_a_folder_that_goes_ends_the_video_with_an_error(tmp_path: Path) -> None:
    (tmp_path / "stick").mkdir()
    sink = video_sink(tmp_path / "stick" / "out.mp4")
    sink.write(frame(0), result())
    shutil.rmtree(tmp_path / "stick")
    with pytest.raises(OutputError, match="its folder is gone"), sink:
        sink.write(frame(1), result())


def test_a_video_that_lost_frames_is_not_kept(tmp_path: Path) -> None:
    sink = video_sink(tmp_path / "out.mp4")
    sink.write(frame(), result())
    sink.frames_written = 100
    with pytest.raises(OutputError, match="contains 1 of 100 frames"):
        sink.close()
    assert not list(tmp_path.iterdir())
