"""Visible names, recovery, and checks of the target before the first frame: the same for all sinks."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from idol_runtime.errors import MissingDependencyError, OutputError
from idol_runtime.events import Event
from idol_runtime.frames import Frame
from idol_runtime.sinks.base import Sink
from idol_runtime.sinks.display import DisplaySink
from idol_runtime.sinks.jsonl import JsonlSink
from idol_runtime.sinks.masks import MaskSink
from idol_runtime.sinks.video import VideoSink
from samples.results import context, frame, result

cv2 = pytest.importorskip("cv2")


SINKS = [
    pytest.param(lambda folder: VideoSink(folder / "out.mp4", context()), id="video"),
    pytest.param(lambda folder: JsonlSink(folder / "out.jsonl", context()), id="jsonl"),
    pytest.param(lambda folder: MaskSink(folder / "masks", context()), id="masks"),
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


@pytest.mark.parametrize("make", SINKS)
def test_output_has_its_name_from_the_first_frame_on(tmp_path: Path, make: MakeSink) -> None:
    with make(tmp_path) as sink:
        assert not list(tmp_path.iterdir())
        for i in range(3):
            sink.write(frame(i), result())
            assert list(tmp_path.iterdir()) == [sink.path]
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
def test_an_existing_file_stays_until_the_first_frame_of_a_finite_source(
    tmp_path: Path, make: MakeSink
) -> None:
    with make(tmp_path) as sink:
        for i in range(2):
            sink.write(frame(i), result())
    (output,) = tmp_path.iterdir()
    before = output.read_bytes()
    with pytest.raises(RuntimeError), make(tmp_path):
        raise RuntimeError
    assert output.read_bytes() == before
    with make(tmp_path) as sink:
        sink.write(frame(), result())
        assert list(tmp_path.iterdir()) == [output]
    assert len(output.read_bytes()) < len(before)


class Flaky(Sink):
    """A sink whose target fails at given frames."""

    def __init__(self, failing: range, **facts: Any) -> None:
        super().__init__("", context(**facts))
        self._frames = failing
        self.tried: list[int] = []

    def _write(self, frame: Frame, result: object) -> None:
        self.tried.append(frame.index)
        if frame.index in self._frames:
            raise OutputError("the disk is full; free some space")

    def close(self) -> None:
        """Do nothing."""


def test_an_output_of_a_live_source_recovers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("idol_runtime.sinks.base.time.monotonic", lambda: now)
    events: list[Event] = []
    sink = Flaky(range(3, 9), live=True, tell=events.append)
    for i in range(15):
        now = float(i)  # one frame per second
        sink.write(frame(i), result())  # type: ignore[arg-type]
    assert sink.tried == [0, 1, 2, 3, 8, 13, 14]
    assert [event.kind for event in events] == ["output_stopped", "output_back"]
    assert events[0].message == "the disk is full; free some space; the run goes on and tries again every 5 s"
    assert events[1].values["lost"] == 10
    assert (sink.frames_written, sink.frames_lost) == (5, 10)


def test_an_output_of_a_finite_source_ends_it() -> None:
    sink = Flaky(range(1), live=False)
    with pytest.raises(OutputError, match="disk is full"):
        sink.write(frame(), result())  # type: ignore[arg-type]


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
    "make",
    [
        lambda path: VideoSink(path / "out.mp4", context()),
        lambda path: JsonlSink(path / "out.jsonl", context()),
    ],
)
def test_a_folder_in_the_place_of_the_file(tmp_path: Path, make: MakeSink) -> None:
    for name in ("out.mp4", "out.jsonl"):
        (tmp_path / name).mkdir()
    with pytest.raises(OutputError, match="is a folder"):
        make(tmp_path)


@pytest.mark.parametrize(
    ("module", "make", "package"),
    [
        ("cv2", lambda folder: VideoSink(folder / "out.mp4", context()), "opencv-python"),
        ("cv2", lambda folder: DisplaySink("", context()), "opencv-python"),
    ],
)
def test_missing_packages_are_reported_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str, make: MakeSink, package: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingDependencyError, match=rf"{package}.*idol-deploy\[video\]"):
        make(tmp_path)
    assert not list(tmp_path.iterdir())
