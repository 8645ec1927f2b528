"""Annotated videos: what they contain, and what is left after a failure."""

import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from idol_runtime.errors import ConfigError, OutputError
from idol_runtime.events import Event
from idol_runtime.frames import Frame
from idol_runtime.sinks.policy import FilePolicy
from idol_runtime.sinks.video import VideoSink
from idol_runtime.sources.opening import open_source
from samples.results import SIZE, context, frame, nothing, result

av = pytest.importorskip("av")
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
            sink.write(replace(frame(i), time_s=5 + i / fps), result())
    rate, frames = read_video(tmp_path / f"out{suffix}")
    assert rate == pytest.approx(fps, abs=0.01)
    assert [image.shape for image in frames] == [(*SIZE, 3)] * 12
    blue, green, red = frames[5][25, 35]
    assert (int(blue), int(green), int(red)) != (128, 128, 128)


@pytest.mark.parametrize(("suffix", "error_s"), [(".mp4", 1e-4), (".mkv", 1e-3), (".avi", 1 / 25)])
def test_a_video_has_the_times_of_its_frames(tmp_path: Path, suffix: str, error_s: float) -> None:
    times = [2.0, 2.04, 2.7, 2.73, 4.0, 4.0]
    path = tmp_path / f"out{suffix}"
    with video_sink(path, fps=25) as sink:
        for i, time_s in enumerate(times):
            sink.write(replace(frame(i), time_s=time_s), result())
    with av.open(path) as container:
        shown = [picture.time for picture in container.decode(video=0)]
        duration_s = container.duration / av.time_base
    times[-1] += 0 if suffix != ".avi" else 1 / 25  # two frames need two times
    assert shown == pytest.approx([time_s - 2 for time_s in times], abs=error_s + 1e-6)
    assert duration_s == pytest.approx(times[-1] - 2 + 1 / 25, abs=error_s + 2e-3)


def test_colours_are_those_that_were_drawn(tmp_path: Path) -> None:
    colours = np.repeat(
        np.array([[250, 10, 10], [10, 250, 10], [10, 10, 250], [9, 99, 199]], np.uint8), 16, 0
    )
    picture = np.ascontiguousarray(np.broadcast_to(colours[None], (48, 64, 3)))
    with video_sink(tmp_path / "out.mp4") as sink:
        sink.write(Frame(0, 0.0, picture), nothing())
    (read,) = open_source(tmp_path / "out.mp4")
    inner = np.abs(read.image.astype(int) - picture)[:, [4, 20, 36, 52, 60]]
    assert inner.max() <= 6


@pytest.mark.parametrize(
    ("absent", "note"),
    [
        ((), "out.mp4 is H.264, encoded by libx264"),
        (("libx264",), "is H.264, encoded by libopenh264|is VP9"),
        (("264", "vp9"), "is MPEG-4, encoded by mpeg4"),
    ],
)
def test_the_codec_is_one_that_browsers_play_if_there_is_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, absent: tuple[str, ...], note: str
) -> None:
    create = av.CodecContext.create

    def only_present(name: str, mode: str) -> Any:
        if any(part in name for part in absent):
            raise av.codec.codec.UnknownCodecError(name)
        return create(name, mode)

    monkeypatch.setattr(av, "CodecContext", SimpleNamespace(create=only_present))
    with video_sink(tmp_path / "out.mp4") as sink:
        sink.write(frame(), result())
    assert re.search(note, sink.note)
    assert len(read_video(tmp_path / "out.mp4")[1]) == 1


@pytest.mark.parametrize("size", [(47, 64), (48, 63), (47, 63), (1, 1)])
def test_odd_sizes_grow_to_even(tmp_path: Path, size: tuple[int, int]) -> None:
    with video_sink(tmp_path / "out.mp4") as sink:
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


def test_a_frame_of_another_size_begins_a_new_file(tmp_path: Path) -> None:
    with video_sink(tmp_path / "out.mp4") as sink:
        for i, size in enumerate([SIZE, SIZE, (10, 20), (10, 20), (10, 20)]):
            sink.write(frame(i, size), nothing(size))
    assert len(read_video(tmp_path / "out.mp4")[1]) == 2
    assert len(read_video(sink.path)[1]) == 3
    assert re.fullmatch(r"out-\d{8}T\d{6}Z\.mp4", sink.path.name)


def test_an_encoder_that_refuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(name: str, mode: str) -> Any:
        raise av.codec.codec.UnknownCodecError(name)

    monkeypatch.setattr(av, "CodecContext", SimpleNamespace(create=refuse))
    with pytest.raises(OutputError, match=r"PyAV cannot write .*out\.mp4: mpeg4; try another suffix"):
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


def test_a_video_on_a_full_disk_can_be_played(small_disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk is found to be full in the middle of a piece."""
    monkeypatch.setattr("idol_runtime.sinks.video._LEAST_FREE", 0)
    monkeypatch.setattr("idol_runtime.sinks.base.RETRY_S", 0.0)
    events: list[Event] = []
    noise = np.random.default_rng(0).integers(0, 255, (160, 160, 3), np.uint8)
    for name in ("a.mp4", "a.mkv", "a.avi"):
        with video_sink(
            small_disk / name, live=True, files=FilePolicy.parse("1h"), tell=events.append
        ) as sink:
            for i in range(100):
                picture = Frame(i, i / 30, np.roll(noise, 7 * i, (0, 1)))
                sink.write(picture, nothing((160, 160)))
                if sink.frames_lost:
                    break
        (whole,) = small_disk.iterdir()
        assert len(read_video(whole)[1]) > 10
        assert subprocess.run(["ffprobe", "-v", "error", whole], check=True).returncode == 0
        whole.unlink()
    assert [event.kind for event in events] == ["output_stopped"] * 3


def test_a_long_interruption_begins_a_new_file(tmp_path: Path) -> None:
    with video_sink(tmp_path / "out.mp4", live=True) as sink:
        for i, (time_s, epoch) in enumerate(
            [(0, 0), (1, 0), (50, 1), (51, 1), (150, 1), (5000, 2), (5001, 2)]
        ):
            sink.write(replace(frame(i), time_s=time_s, epoch=epoch), nothing())
    first, second = tmp_path / "out.mp4", sink.path
    for path, times in ((first, [0, 1, 50, 51, 150]), (second, [0, 1])):
        with av.open(path) as container:
            pictures = list(container.decode(video=0))
        assert [picture.time for picture in pictures] == pytest.approx(times)
        # A player can start at every picture that follows a gap.
        assert [p.key_frame for p in pictures] == [
            i == 0 or t - times[i - 1] > 10 for i, t in enumerate(times)
        ]


def test_an_avi_file_of_a_camera_has_a_limit(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"out\.avi; add --rotate 1h, or write \.mkv"):
        video_sink(tmp_path / "out.avi", live=True)
    video_sink(tmp_path / "out.avi", live=True, files=FilePolicy.parse("1h"))
