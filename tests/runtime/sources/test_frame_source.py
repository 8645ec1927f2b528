"""Open sources: stride, limit, one frame size, and closing while a thread reads."""

import threading
from pathlib import Path
from typing import Any

import pytest

from idol_runtime.errors import FrameError, SourceError
from idol_runtime.sources.opening import open_source
from samples.captures import FakeCapture, Hanging

cv2 = pytest.importorskip("cv2")


@pytest.mark.parametrize(
    ("stride", "max_frames", "indices"),
    [
        (7, None, [0, 7, 14, 21, 28]),
        (7, 3, [0, 7, 14]),
        (1, 4, [0, 1, 2, 3]),
        (40, None, [0]),
        (10, 99, [0, 10, 20]),
    ],
)
def test_stride_and_limit(video: Path, stride: int, max_frames: int | None, indices: list[int]) -> None:
    with open_source(str(video), stride=stride, max_frames=max_frames) as source:
        assert source.frame_count == len(indices)
        assert source.fps == pytest.approx(25 / stride)
        frames = list(source)
    assert [frame.index for frame in frames] == indices
    assert [frame.time_s for frame in frames] == pytest.approx([index / 25 for index in indices])


@pytest.mark.parametrize("stride", [1, 7])
@pytest.mark.parametrize("max_frames", [None, 4])
@pytest.mark.parametrize("done", [1, 3, 4, 99])
def test_skipped_frames_change_no_other_frame(
    video: Path, stride: int, max_frames: int | None, done: int
) -> None:
    with open_source(str(video), stride=stride, max_frames=max_frames) as source:
        expected = list(source)[done:]
    with open_source(str(video), stride=stride, max_frames=max_frames) as source:
        source.skip(done)
        frames = list(source)
    assert [(frame.index, frame.time_s) for frame in frames] == [
        (frame.index, frame.time_s) for frame in expected
    ]
    assert all((a.image == b.image).all() for a, b in zip(frames, expected, strict=True))


def test_a_source_is_read_once(video: Path) -> None:
    with open_source(video, max_frames=2) as source:
        list(source)
        with pytest.raises(SourceError, match="open it again"):
            iter(source)
    with pytest.raises(SourceError, match="closed"):
        iter(source)


def test_a_change_of_resolution_names_both_sizes(fake: list[Any]) -> None:
    fake.append(FakeCapture([(8, 8), (8, 8), (6, 10)]))
    with open_source(0) as source, pytest.raises(FrameError, match=r"frame 2 of .* is 6x10 .* 8x8"):
        list(source)


def test_close_does_not_wait_for_a_camera_that_hangs(fake: list[Any]) -> None:
    capture = Hanging()
    fake.append(capture)
    source = open_source(0)
    thread = threading.Thread(target=lambda: list(source))
    thread.start()
    assert capture.hangs.wait(60)
    source.close()
    assert not capture.released, "the thread still uses it"
    capture.go_on.set()
    thread.join(60)
    assert capture.released, "the thread releases it when it has its frame"


def test_a_source_that_is_closed_without_a_thread(fake: list[Any]) -> None:
    capture = Hanging()
    fake.append(capture)
    with open_source(0) as source:
        frames = iter(source)
        next(frames)
    assert capture.released
    assert list(frames) == []
