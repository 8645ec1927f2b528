"""The choice of a kind, labels and paths of sources, and sources that do not exist."""

from pathlib import Path

import numpy as np
import pytest

from idol_runtime.errors import ConfigError, SourceError
from idol_runtime.frames import RGBImage
from idol_runtime.sources import opening
from idol_runtime.sources.base import Reader, Source, local_path
from idol_runtime.sources.camera import CameraReader
from idol_runtime.sources.opening import KINDS, open_source, reader_kind, source_label, source_paths
from idol_runtime.sources.stream import StreamReader
from idol_runtime.sources.video import VideoReader
from samples.captures import read_all, write_images

cv2 = pytest.importorskip("cv2")


@pytest.mark.parametrize("option", ["stride", "max_frames"])
@pytest.mark.parametrize("value", [0, -1])
def test_impossible_options(video: Path, option: str, value: int) -> None:
    with pytest.raises(ConfigError, match=f"{option} must be at least 1, got {value}"):
        open_source(video, **{option: value})


@pytest.mark.parametrize("path", ["missing.mp4", "missing/", "a\0b.mp4"])
def test_a_missing_path(tmp_path: Path, path: str) -> None:
    with pytest.raises(SourceError, match=r"does not exist|cannot read"):
        open_source(f"{tmp_path}/{path}")


@pytest.mark.parametrize(
    "source", ["~nosuchuser/clip.mp4", "~nosuchuser/*.png", "~a\0b/clip.mp4", "9" * 5000]
)
def test_a_path_that_leads_nowhere(source: str) -> None:
    with pytest.raises(SourceError, match=r"does not exist|matches no file|cannot read"):
        open_source(source)


def test_the_home_of_an_unknown_user_may_be_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_images(tmp_path / "~nosuchuser", ["0.png"])
    assert len(read_all("~nosuchuser/*.png")) == 1


@pytest.mark.parametrize(
    ("source", "path"),
    [
        ("a.mp4", "a.mp4"),
        ("~nosuchuser/a.mp4", "~nosuchuser/a.mp4"),
        (Path("12"), "12"),
        ("1234567890", "1234567890"),
    ],
)
def test_where_a_source_is(source: str | Path, path: str) -> None:
    assert reader_kind(source) is VideoReader
    assert local_path(source) == Path(path)


@pytest.mark.parametrize(
    ("source", "kind"),
    [("12", CameraReader), ("-1", CameraReader), (0, CameraReader), ("rtsp://host/live", StreamReader)],
)
def test_sources_that_are_no_path(source: str | int, kind: type[Reader]) -> None:
    assert reader_kind(source) is kind


def test_the_home_directory_is_inserted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    assert local_path("~/a.mp4") == local_path(Path("~/a.mp4")) == Path("/home/me/a.mp4")


def test_what_a_source_is_read_from(video: Path, tmp_path: Path) -> None:
    folder = write_images(tmp_path / "images", ["0.png", "1.png"])
    (folder / "notes.txt").touch()
    images = [folder, folder / "0.png", folder / "1.png"]
    assert sorted(source_paths(folder)) == sorted(source_paths(f"{folder}/*")) == images
    assert source_paths(str(video)) == [video]
    for nowhere in (0, "12", "rtsp://host/live", tmp_path / "gone", f"{tmp_path}/*.jpg", "a\0b", "x" * 5000):
        assert source_paths(nowhere) == []


def test_an_empty_name() -> None:
    with pytest.raises(SourceError, match="source is empty"):
        open_source("")


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("a/street.mp4", "street"),
        ("a/street.cam.mp4", "street.cam"),
        ("yard/*.png", "yard"),
        ("yard/2*/frame*.png", "yard"),
        (0, "camera0"),
        ("12", "camera12"),
        ("rtsp://me:secret@10.0.0.5:554/live/1?key=hidden", "10.0.0.5_554_live_1"),
        ("http://cam.local/", "cam.local"),
        ("rtsp://me:secret@[10.0.0.5/live?key=1", "10.0.0.5_live"),
        ("Straße 5.mp4", "Straße_5"),
        ("...mp4", "source"),
        ("a\0b.mp4", "a_b"),
        ("~nosuchuser/x.mp4", "x"),
        ("~a\0b/x.mp4", "x"),
        ("x" * 5000, "x" * 5000),
        (Path("12"), "12"),
        ("1234567890", "1234567890"),
    ],
)
def test_what_a_source_is_called(source: str | int | Path, name: str) -> None:
    assert source_label(source) == name


def test_a_folder_is_called_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "clip.v2"
    folder.mkdir()
    monkeypatch.chdir(folder)
    assert source_label(folder) == source_label(".") == source_label("*.png") == "clip.v2"


def test_a_file_whose_name_looks_like_a_pattern(tmp_path: Path) -> None:
    """A name of an existing file is not a pattern."""
    clip = tmp_path / "clip[1].mp4"
    assert source_label(clip) == tmp_path.name
    clip.touch()
    assert source_label(clip) == "clip_1"
    (tmp_path / "take[2]").mkdir()
    assert source_label(tmp_path / "take[2]") == "take_2"


def test_links_in_a_circle(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").symlink_to("b.mp4")
    (tmp_path / "b.mp4").symlink_to("a.mp4")
    assert source_label(tmp_path / "a.mp4") == "a"


class NoiseReader(Reader):
    """A source of random images."""

    def __init__(self, source: Source) -> None:
        self.name, self.size, self.frame_count = str(source), (8, 8), int(str(source).partition("://")[2])
        self._left = self.frame_count

    @classmethod
    def accepts(cls, source: Source) -> bool:
        return str(source).startswith("noise://")

    def read(self) -> RGBImage | None:
        return np.zeros((8, 8, 3), np.uint8) if self.skip() else None

    def skip(self) -> bool:
        self._left -= 1
        return self._left >= 0

    def close(self) -> None:
        """Do nothing."""


def test_a_kind_of_source_is_one_class_and_one_entry_of_the_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opening, "KINDS", [NoiseReader, *KINDS])
    assert source_paths("noise://5") == []
    with open_source("noise://5", stride=2) as source:
        assert source.frame_count == 3
        assert [frame.index for frame in source] == [0, 2, 4]
