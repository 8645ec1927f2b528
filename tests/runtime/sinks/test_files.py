"""Results out: what is written, what is left after a failure, and what each bad place is told."""

import errno
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from idol_runtime.errors import ConfigError, FrameError, MissingDependencyError, OutputError
from idol_runtime.frames import Frame
from idol_runtime.sinks.display import DisplaySink
from idol_runtime.sinks.files import JsonlSink, MaskSink, Sink, VideoSink
from idol_runtime.tracking.crops import MaskCrop, crop_masks
from idol_runtime.tracking.rle import decode_rle

cv2 = pytest.importorskip("cv2")

SIZE = (48, 64)


@dataclass
class Result:
    ids: NDArray[np.int64]
    labels: NDArray[np.int64]
    scores: NDArray[np.float32]
    boxes_xyxy: NDArray[np.float32]
    masks: NDArray[np.bool_]
    class_names: Sequence[str] = ("person", "cat")

    @property
    def crops(self) -> Sequence[MaskCrop]:
        return crop_masks(self.masks)

    @property
    def size(self) -> tuple[int, int]:
        return self.masks.shape[1], self.masks.shape[2]


def frame(index: int = 0, size: tuple[int, int] = SIZE) -> Frame:
    return Frame(index, index / 30, np.full((*size, 3), 128, np.uint8))


def result(size: tuple[int, int] = SIZE, ids: Sequence[int] = (0, 3)) -> Result:
    """Two overlapping rectangles; the first has the lower score."""
    masks = np.zeros((2, *size), np.bool_)
    masks[0, 4:20, 4:30] = True
    masks[1, 10:30, 10:40] = True
    return Result(
        ids=np.array(ids, np.int64),
        labels=np.array([1, 0], np.int64),
        scores=np.array([0.25, 0.87], np.float32),
        boxes_xyxy=np.array([[4, 4, 30, 20], [10, 10, 40, 30.126]], np.float32),
        masks=masks,
    )


def nothing(size: tuple[int, int] = SIZE) -> Result:
    empty = result(size)
    return Result(empty.ids[:0], empty.labels[:0], empty.scores[:0], empty.boxes_xyxy[:0], empty.masks[:0])


def video_sink(path: Path, **options: Any) -> VideoSink:
    return VideoSink(path, **{"fps": 30.0, "size": SIZE, **options})


SINKS = [
    pytest.param(lambda folder: video_sink(folder / "out.mp4"), id="video"),
    pytest.param(lambda folder: JsonlSink(folder / "out.jsonl"), id="jsonl"),
    pytest.param(lambda folder: MaskSink(folder / "masks"), id="masks"),
]
MakeSink = Callable[[Path], Sink]


def read_video(path: Path) -> tuple[float, list[NDArray[np.uint8]]]:
    capture = cv2.VideoCapture(str(path))
    frames = []
    while True:
        read, image = capture.read()
        if not read:
            return float(capture.get(cv2.CAP_PROP_FPS)), frames
        frames.append(image)


# --- what every sink does ---


@pytest.mark.parametrize("make", SINKS)
def test_output_has_its_name_only_when_whole(tmp_path: Path, make: MakeSink) -> None:
    with make(tmp_path) as sink:
        if not isinstance(sink, MaskSink):
            assert not list(tmp_path.glob("out.*"))
        for i in range(3):
            sink.write(frame(i), result())
        assert sink.frames_written == 3
        assert not sink.stopped
    assert len(list(tmp_path.iterdir())) == 1
    sink.close()
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
@pytest.mark.parametrize("make", SINKS)
def test_an_interrupted_run_keeps_its_frames(
    tmp_path: Path, make: MakeSink, error: type[BaseException]
) -> None:
    sink = make(tmp_path)
    sink.write(frame(0), result())
    sink.write(frame(1), result())
    with pytest.raises(error), sink:
        raise error
    (output,) = tmp_path.iterdir()
    if output.suffix == ".mp4":
        assert len(read_video(output)[1]) == 2
    elif output.is_dir():
        assert len(list(output.iterdir())) == 2
    else:
        assert len(output.read_text().splitlines()) == 2


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError, None])
@pytest.mark.parametrize("make", SINKS)
def test_a_run_without_frames_leaves_nothing(
    tmp_path: Path, make: MakeSink, error: type[BaseException] | None
) -> None:
    if error is None:
        with make(tmp_path):
            pass
    else:
        with pytest.raises(error), make(tmp_path):
            raise error
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("make", SINKS[:2])
def test_abort_removes_what_was_written(tmp_path: Path, make: MakeSink) -> None:
    sink = make(tmp_path)
    sink.write(frame(), result())
    sink.abort()
    sink.close()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("make", SINKS[:2])
def test_an_existing_file_stays_until_the_new_one_is_whole(tmp_path: Path, make: MakeSink) -> None:
    with make(tmp_path) as sink:
        sink.write(frame(), result())
    (output,) = tmp_path.iterdir()
    before = output.read_bytes()
    with pytest.raises(RuntimeError), make(tmp_path):
        raise RuntimeError
    assert output.read_bytes() == before


@pytest.mark.parametrize("make", SINKS)
def test_a_missing_folder(tmp_path: Path, make: MakeSink) -> None:
    with pytest.raises(OutputError, match=r"missing does not exist; create it first"):
        make(tmp_path / "missing")


@pytest.mark.parametrize("make", SINKS)
def test_a_place_that_cannot_be_written(
    tmp_path: Path, make: MakeSink, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.access", lambda *_: False)
    with pytest.raises(OutputError, match="permission denied"):
        make(tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "make", [lambda path: video_sink(path / "out.mp4"), lambda path: JsonlSink(path / "out.jsonl")]
)
def test_a_folder_in_the_place_of_the_file(tmp_path: Path, make: MakeSink) -> None:
    for name in ("out.mp4", "out.jsonl"):
        (tmp_path / name).mkdir()
    with pytest.raises(OutputError, match="is a folder"):
        make(tmp_path)


# --- video ---


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
    with pytest.raises(OutputError, match=r"\.mp4 \.mkv \.avi"):
        video_sink(tmp_path / name)


@pytest.mark.parametrize("fps", [0.0, -1.0, float("nan"), float("inf"), 1e6])
def test_an_impossible_rate(tmp_path: Path, fps: float) -> None:
    with pytest.raises(ConfigError, match="frames per second"):
        video_sink(tmp_path / "out.mp4", fps=fps)


def test_a_frame_of_another_size(tmp_path: Path) -> None:
    with (
        video_sink(tmp_path / "out.mp4") as sink,
        pytest.raises(FrameError, match=r"frame 7 is 10x20 .* 48x64"),
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
    with pytest.raises(OutputError, match="holds 1 of 100 frames"):
        sink.close()
    assert not list(tmp_path.iterdir())


# --- JSON lines ---


def test_json_lines_hold_the_whole_result(tmp_path: Path) -> None:
    with JsonlSink(tmp_path / "out.jsonl") as sink:
        sink.write(frame(0), result())
        sink.write(frame(5), nothing())
    first, second = map(json.loads, (tmp_path / "out.jsonl").read_text().splitlines())
    assert second == {"frame": 5, "time_s": 0.166667, "size": [48, 64], "instances": []}
    assert [first["frame"], first["time_s"], first["size"]] == [0, 0.0, [48, 64]]
    for i, instance in enumerate(first["instances"]):
        np.testing.assert_array_equal(decode_rle(instance.pop("mask")), result().masks[i])
    assert first["instances"] == [
        {"id": 0, "label": 1, "class": "cat", "score": 0.25, "box_xyxy": [4.0, 4.0, 30.0, 20.0]},
        {"id": 3, "label": 0, "class": "person", "score": 0.87, "box_xyxy": [10.0, 10.0, 40.0, 30.13]},
    ]


class FullDisk:
    """A file on a disk without room."""

    def write(self, _: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    def close(self) -> None:
        return


def test_json_lines_on_a_full_disk(tmp_path: Path) -> None:
    sink = JsonlSink(tmp_path / "out.jsonl")
    sink.write(frame(0), result())
    sink._file.close()
    sink._file = FullDisk()  # type: ignore[assignment]
    with pytest.raises(OutputError, match=r"out\.jsonl: No space left"), sink:
        sink.write(frame(1), result())
    assert len((tmp_path / "out.jsonl").read_text().splitlines()) == 1


@pytest.mark.parametrize(
    ("module", "make", "package"),
    [
        ("cv2", lambda folder: video_sink(folder / "out.mp4"), "opencv-python"),
        ("cv2", lambda folder: DisplaySink(), "opencv-python"),
    ],
)
def test_missing_packages_are_told_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str, make: MakeSink, package: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingDependencyError, match=rf"{package}.*idol-deploy\[video\]"):
        make(tmp_path)
    assert not list(tmp_path.iterdir())


# --- masks ---


def test_masks_hold_ids_with_the_higher_score_on_top(tmp_path: Path) -> None:
    with MaskSink(tmp_path / "masks") as sink:
        sink.write(frame(0), result())
        sink.write(frame(12), nothing())
    assert sorted(path.name for path in (tmp_path / "masks").iterdir()) == ["000000.png", "000012.png"]
    with Image.open(tmp_path / "masks" / "000000.png") as image:
        assert image.mode.startswith("I")
        identities = np.array(image)
    expected = np.zeros(SIZE, np.int64)
    expected[4:20, 4:30] = 1
    expected[10:30, 10:40] = 4
    np.testing.assert_array_equal(identities, expected)


@pytest.mark.parametrize(("track", "fits"), [(65534, True), (65535, False)])
def test_ids_beyond_16_bit(tmp_path: Path, track: int, fits: bool) -> None:
    sink = MaskSink(tmp_path)
    if fits:
        sink.write(frame(), result(ids=(0, track)))
        with Image.open(tmp_path / "000000.png") as image:
            assert np.array(image).max() == 65535
    else:
        with pytest.raises(OutputError, match="track id 65535 does not fit"):
            sink.write(frame(), result(ids=(0, track)))
        assert not list(tmp_path.iterdir())


def test_masks_of_two_runs_do_not_mix(tmp_path: Path) -> None:
    with MaskSink(tmp_path) as sink:
        sink.write(frame(), result())
    with pytest.raises(OutputError, match="PNG files already"):
        MaskSink(tmp_path)


def test_a_file_in_the_place_of_the_folder(tmp_path: Path) -> None:
    (tmp_path / "masks").touch()
    with pytest.raises(OutputError, match="is a file"):
        MaskSink(tmp_path / "masks")


def test_masks_on_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", refuse)
    with pytest.raises(OutputError, match="No space left"), MaskSink(tmp_path / "masks") as sink:
        sink.write(frame(), result())
    assert not list(tmp_path.iterdir())


# --- window ---


@pytest.fixture
def window(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A screen that is not there: what is shown, the next key, and whether the window is still visible."""
    state: dict[str, Any] = {"shown": [], "key": -1, "visible": 1.0, "destroyed": 0}

    def destroy(_: str) -> None:
        state["destroyed"] += 1

    monkeypatch.setattr(subprocess, "run", lambda *_, **__: SimpleNamespace(returncode=0))
    monkeypatch.setattr(cv2, "namedWindow", lambda *_: None)
    monkeypatch.setattr(cv2, "imshow", lambda _, image: state["shown"].append(image))
    monkeypatch.setattr(cv2, "waitKey", lambda _: state["key"])
    monkeypatch.setattr(cv2, "getWindowProperty", lambda *_: state["visible"])
    monkeypatch.setattr(cv2, "destroyWindow", destroy)
    return state


@pytest.mark.parametrize(
    ("key", "visible", "stopped"),
    [(-1, 1.0, False), (ord("x"), 1.0, False), (ord("q"), 1.0, True), (27, 1.0, True), (-1, 0.0, True)],
)
def test_the_window_shows_and_stops(window: dict[str, Any], key: int, visible: float, stopped: bool) -> None:
    with DisplaySink() as sink:
        window.update(key=key, visible=visible)
        sink.write(frame(), result())
        assert sink.stopped is stopped
    sink.close()
    assert window["shown"][0].shape == (*SIZE, 3)
    assert window["destroyed"] == 1


def test_no_screen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: SimpleNamespace(returncode=-6))
    with pytest.raises(OutputError, match=r"cannot open a window: .* write a video instead"):
        DisplaySink()


def test_a_window_that_fails_later(window: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise cv2.error("no window")

    sink = DisplaySink()
    monkeypatch.setattr(cv2, "imshow", refuse)
    monkeypatch.setattr(cv2, "destroyWindow", refuse)
    with pytest.raises(OutputError, match="cannot draw in the window"), sink:
        sink.write(frame(), result())
