"""Cameras: what is one, and what happens when one stops."""

from pathlib import Path
from typing import Any

import pytest

from idol_runtime.errors import SourceError
from idol_runtime.sources.camera import CameraReader
from idol_runtime.sources.opening import open_source, reader_kind, source_label
from samples.captures import FakeCapture, read_all, write_images

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
