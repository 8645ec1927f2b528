"""Video files: every frame in order, times, and damaged files."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from idol_runtime.errors import SourceError
from idol_runtime.sources.opening import open_source
from samples.captures import HEIGHT, WIDTH, FakeCapture, read_all, shade, write_video

cv2 = pytest.importorskip("cv2")


@pytest.mark.parametrize("suffix", [".mp4", ".avi", ".mkv"])
def test_a_video_yields_all_its_frames(tmp_path: Path, suffix: str) -> None:
    path = write_video(tmp_path / f"clip{suffix}")
    with open_source(path) as source:
        assert (source.fps, source.frame_count, source.size) == (25.0, 30, (HEIGHT, WIDTH))
        assert not source.live
        frames = list(source)
    assert [frame.index for frame in frames] == list(range(30))
    assert [frame.time_s for frame in frames] == pytest.approx([i / 25 for i in range(30)])
    for frame in frames:
        assert frame.image.dtype == np.uint8
        assert frame.image.flags.c_contiguous
        assert frame.image.mean() == pytest.approx(shade(frame.index), abs=3)


def test_colours_come_as_rgb(tmp_path: Path) -> None:
    writer = cv2.VideoWriter(str(tmp_path / "red.mp4"), cv2.VideoWriter_fourcc(*"mp4v"), 25, (WIDTH, HEIGHT))
    for _ in range(3):
        writer.write(np.full((HEIGHT, WIDTH, 3), (0, 0, 250), np.uint8))
    writer.release()
    red, green, blue = read_all(tmp_path / "red.mp4")[0].image.mean(axis=(0, 1))
    assert red > 230
    assert max(green, blue) < 20


@pytest.mark.parametrize("suffix", [".avi", ".mkv"])
@pytest.mark.parametrize("stride", [1, 2])
def test_a_video_cut_short_yields_its_good_frames_first(tmp_path: Path, suffix: str, stride: int) -> None:
    whole = write_video(tmp_path / f"whole{suffix}", noise=True).read_bytes()
    (tmp_path / f"cut{suffix}").write_bytes(whole[: len(whole) // 2])
    seen: list[int] = []
    complaint = r"ends at frame \d+ of 30: .* cut short"
    source = open_source(tmp_path / f"cut{suffix}", stride=stride)
    with source, pytest.raises(SourceError, match=complaint) as caught:
        seen.extend(frame.index for frame in source)
    end = int(str(caught.value).split("ends at frame ")[1].split()[0])
    assert 3 <= end < 28
    assert seen == list(range(0, end, stride))


@pytest.mark.parametrize(
    ("held", "stated", "whole"),
    [(30, 30, True), (28, 30, True), (27, 30, False), (990, 1000, True), (989, 1000, False), (31, 30, True)],
)
def test_how_short_a_reading_may_be(
    video: Path, fake: list[Any], held: int, stated: int, whole: bool
) -> None:
    fake.append(FakeCapture([(8, 8)] * held, stated))
    seen = []
    with open_source(video) as source:
        if whole:
            seen.extend(source)
        else:
            with pytest.raises(SourceError, match=f"frame {held} of {stated}"):
                seen.extend(source)
    assert len(seen) == held


def test_a_variable_frame_rate_is_not_a_cut(video: Path, fake: list[Any]) -> None:
    capture = FakeCapture([(8, 8)] * 20, 60, fps=60)
    plain = capture.get
    capture.get = lambda key: 50.0 * (capture.position - 1) if key == cv2.CAP_PROP_POS_MSEC else plain(key)  # type: ignore[method-assign]
    fake.append(capture)
    assert [frame.time_s for frame in read_all(video)] == pytest.approx([0.05 * i for i in range(20)])


def test_without_timestamps_the_rate_tells_the_time(video: Path, fake: list[Any]) -> None:
    fake.append(FakeCapture([(8, 8)] * 4, 4, clock=False))
    assert [frame.time_s for frame in read_all(video)] == pytest.approx([0, 0.04, 0.08, 0.12])


def test_an_undecodable_frame_is_named(video: Path, fake: list[Any]) -> None:
    fake.append(FakeCapture([(8, 8), (0, 0)], 2))
    with open_source(video) as source, pytest.raises(SourceError, match=r"frame 1 of .* cannot be decoded"):
        list(source)


def test_no_video_at_all(tmp_path: Path) -> None:
    (tmp_path / "notes.mp4").write_text("no video")
    with pytest.raises(SourceError, match=r"notes\.mp4 is not a video"):
        open_source(tmp_path / "notes.mp4")


def test_an_empty_file(tmp_path: Path) -> None:
    (tmp_path / "empty.mp4").touch()
    with pytest.raises(SourceError, match="0 bytes"):
        open_source(tmp_path / "empty.mp4")


@pytest.mark.parametrize("suffix", [".mp4", ".avi"])
def test_a_video_without_frames(tmp_path: Path, suffix: str) -> None:
    with pytest.raises(SourceError, match=r"no frames|not a video"):
        open_source(write_video(tmp_path / f"none{suffix}", frames=0))


def test_an_unreadable_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "locked.mp4").write_text("x")

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(SourceError, match=r"cannot read .*locked\.mp4: Permission denied"):
        open_source(tmp_path / "locked.mp4")


def test_what_is_counted_by_such_a_rate_is_no_length(video: Path, fake: list[Any]) -> None:
    fake.append(FakeCapture([(8, 8)] * 30, 90_000, fps=90_000.0, clock=False))
    with open_source(video) as source:
        assert (source.frame_count, source.live) == (None, False)
        assert len(list(source)) == 30


@pytest.mark.clips
@pytest.mark.parametrize(
    ("name", "frames", "size"), [("bedroom", 200, (540, 960)), ("dancers", 270, (360, 640))]
)
def test_real_clips_are_read_to_their_end(clips: Path, name: str, frames: int, size: tuple[int, int]) -> None:
    with open_source(clips / f"{name}.mp4") as source:
        assert (source.frame_count, source.size) == (frames, size)
        times = [frame.time_s for frame in source]
    assert len(times) == frames
    assert times == sorted(times)
