"""Frames in: every kind of source, and what each is told when it is broken."""

import itertools
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from idol_runtime.errors import ConfigError, FrameError, MissingDependencyError, SourceError
from idol_runtime.frames import Frame
from idol_runtime.sources import captures
from idol_runtime.sources.captures import redact
from idol_runtime.sources.images import natural_key, read_image
from idol_runtime.sources.opening import local_path, open_source, source_places

cv2 = pytest.importorskip("cv2")

HEIGHT, WIDTH = 48, 64


def shade(index: int) -> int:
    """The brightness of synthetic frame `index`, far enough from its neighbours to survive a lossy codec."""
    return 20 + 7 * index


def write_video(path: Path, frames: int = 30, fps: float = 25.0, noise: bool = False) -> Path:
    codec = "XVID" if path.suffix == ".avi" else "mp4v"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*codec), fps, (WIDTH, HEIGHT))
    assert writer.isOpened()
    rng = np.random.default_rng(0)
    for i in range(frames):
        image = np.full((HEIGHT, WIDTH, 3), shade(i), np.uint8)
        if noise:
            image = rng.integers(0, 256, image.shape, dtype=np.uint8)
        writer.write(image)
    writer.release()
    return path


def write_images(folder: Path, names: list[str]) -> Path:
    folder.mkdir(exist_ok=True)
    for i, name in enumerate(names):
        Image.new("RGB", (WIDTH, HEIGHT), (shade(i), 0, 0)).save(folder / name)
    return folder


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_video(tmp_path_factory.mktemp("video") / "clip.mp4")


def read_all(source: Any, **options: Any) -> list[Frame]:
    with open_source(source, **options) as frames:
        return list(frames)


# --- video ---


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


@pytest.mark.parametrize("option", ["stride", "max_frames"])
@pytest.mark.parametrize("value", [0, -1])
def test_impossible_options(video: Path, option: str, value: int) -> None:
    with pytest.raises(ConfigError, match=f"{option} must be at least 1, got {value}"):
        open_source(video, **{option: value})


def test_a_source_is_read_once(video: Path) -> None:
    with open_source(video, max_frames=2) as source:
        list(source)
        with pytest.raises(SourceError, match="open it again"):
            iter(source)
    with pytest.raises(SourceError, match="closed"):
        iter(source)


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


class FakeCapture:
    """Stands for `cv2.VideoCapture`: `grabs` frames of the given sizes, then nothing."""

    def __init__(
        self, sizes: list[tuple[int, int]], count: float, fps: float = 25.0, clock: bool = True
    ) -> None:
        self.sizes, self.count, self.fps, self.clock = sizes, count, fps, clock
        self.position = 0
        self.released = False

    def isOpened(self) -> bool:  # noqa: N802 - OpenCV's name
        return True

    def get(self, key: int) -> float:
        stamp = 1000 * (self.position - 1) / self.fps if self.clock else 0.0
        known = {
            cv2.CAP_PROP_FPS: self.fps,
            cv2.CAP_PROP_FRAME_COUNT: self.count,
            cv2.CAP_PROP_POS_MSEC: stamp,
        }
        return known[key]

    def set(self, key: int, value: float) -> bool:
        return False

    def grab(self) -> bool:
        self.position += 1
        return self.position <= len(self.sizes)

    def retrieve(self) -> tuple[bool, NDArray[np.uint8] | None]:
        height, width = self.sizes[self.position - 1]
        return (True, np.zeros((height, width, 3), np.uint8)) if height else (False, None)

    def release(self) -> None:
        self.released = True


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """A queue of captures that take the place of what OpenCV would open."""
    queue: list[Any] = []
    monkeypatch.setattr(cv2, "VideoCapture", lambda *_: queue.pop(0))
    return queue


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


def test_a_change_of_resolution_names_both_sizes(video: Path, fake: list[Any]) -> None:
    fake.append(FakeCapture([(8, 8), (8, 8), (6, 10)], 3))
    with open_source(video) as source, pytest.raises(FrameError, match=r"frame 2 of .* is 6x10 .* 8x8"):
        list(source)


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


def test_opencv_keeps_quiet(tmp_path: Path) -> None:
    """In a process of its own: FFmpeg reads its log level once, and other tests may have been first."""
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


def test_a_home_that_nobody_has_may_be_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
        ("12", None),
        ("-1", None),
        (0, None),
        ("rtsp://host/live", None),
    ],
)
def test_where_a_source_is(source: str | int | Path, path: str | None) -> None:
    assert local_path(source) == (None if path is None else Path(path))


def test_the_home_is_put_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    assert local_path("~/a.mp4") == local_path(Path("~/a.mp4")) == Path("/home/me/a.mp4")


def test_what_a_source_is_read_from(video: Path, tmp_path: Path) -> None:
    folder = write_images(tmp_path / "images", ["0.png", "1.png"])
    (folder / "notes.txt").touch()
    images = [folder, folder / "0.png", folder / "1.png"]
    assert sorted(source_places(folder)) == sorted(source_places(f"{folder}/*")) == images
    assert source_places(str(video)) == [video]
    for nowhere in (0, "12", "rtsp://host/live", tmp_path / "gone", f"{tmp_path}/*.jpg", "a\0b", "x" * 5000):
        assert source_places(nowhere) == []


def test_an_empty_name() -> None:
    with pytest.raises(SourceError, match="source is empty"):
        open_source("")


def test_an_unreadable_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "locked.mp4").write_text("x")

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(SourceError, match=r"cannot read .*locked\.mp4: Permission denied"):
        open_source(tmp_path / "locked.mp4")


def test_without_opencv(video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(
        MissingDependencyError, match=r"reading video needs opencv-python.*idol-deploy\[video\]"
    ):
        open_source(video)
    assert len(read_all(write_images(tmp_path / "images", ["0.png", "1.png"]))) == 2


# --- images ---


def test_a_folder_is_read_in_natural_order(tmp_path: Path) -> None:
    folder = write_images(tmp_path / "images", ["frame1.png", "frame2.png", "frame10.png"])
    (folder / "notes.txt").write_text("not an image")
    (folder / "._frame0.png").write_bytes(b"a resource fork")
    with open_source(folder) as source:
        assert (source.fps, source.frame_count, source.size) == (None, 3, (HEIGHT, WIDTH))
        frames = list(source)
    assert [int(frame.image[0, 0, 0]) for frame in frames] == [shade(0), shade(1), shade(2)]
    assert [frame.time_s for frame in frames] == pytest.approx([0, 1 / 30, 2 / 30])


@pytest.mark.parametrize("stride", [1, 2, 3])
def test_stride_over_images(tmp_path: Path, stride: int) -> None:
    folder = write_images(tmp_path / "images", [f"{i}.png" for i in range(5)])
    frames = read_all(f"{folder}/*.png", stride=stride)
    assert [frame.index for frame in frames] == list(range(0, 5, stride))
    assert [int(frame.image[0, 0, 0]) for frame in frames] == [shade(frame.index) for frame in frames]


def test_one_image_is_a_source_of_one_frame(tmp_path: Path) -> None:
    assert len(read_all(write_images(tmp_path / "images", ["only.png"]) / "only.png")) == 1


def test_a_folder_whose_name_looks_like_a_pattern(tmp_path: Path) -> None:
    assert len(read_all(write_images(tmp_path / "take[1]", ["0.png"]))) == 1


@given(st.lists(st.from_regex(r"\A[a-zA-Z]{0,3}[0-9]{1,4}\.png\Z"), min_size=2, max_size=8))
def test_natural_order_is_total_and_numeric(names: list[str]) -> None:
    ordered = sorted(map(Path, names), key=natural_key)
    names_backwards = [Path(name) for name in reversed(names)]
    assert ordered == sorted(names_backwards, key=natural_key)
    for a, b in itertools.pairwise(ordered):
        letters_a, letters_b = a.stem.rstrip("0123456789"), b.stem.rstrip("0123456789")
        if letters_a == letters_b:
            assert int(a.stem[len(letters_a) :]) <= int(b.stem[len(letters_b) :])


@pytest.mark.parametrize("pattern", ["", "/*", "/*.png"])
def test_no_images(tmp_path: Path, pattern: str) -> None:
    (tmp_path / "notes.txt").write_text("not an image")
    with pytest.raises(SourceError, match=r"holds no image|matches no file"):
        open_source(f"{tmp_path}{pattern}")


def test_a_damaged_image_is_named_after_the_good_ones(tmp_path: Path) -> None:
    folder = write_images(tmp_path / "images", ["0.png", "1.png", "2.png"])
    data = (folder / "1.png").read_bytes()
    (folder / "1.png").write_bytes(data[: len(data) // 2])
    seen = []
    with open_source(folder) as source, pytest.raises(SourceError, match=r"1\.png \(frame 1\)"):
        seen.extend(frame.index for frame in source)
    assert seen == [0]


def test_an_image_of_another_size_is_named(tmp_path: Path) -> None:
    folder = write_images(tmp_path / "images", ["0.png"])
    Image.new("RGB", (10, 20)).save(folder / "1.png")
    with (
        open_source(folder) as source,
        pytest.raises(FrameError, match=r"1\.png \(frame 1\) is 20x10 .* 48x64"),
    ):
        list(source)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK"])
def test_eight_bit_modes_become_rgb(tmp_path: Path, mode: str) -> None:
    path = tmp_path / ("image.tif" if mode in ("CMYK", "PA") else "image.png")
    image = Image.new("RGB", (5, 4), (255, 255, 255)).convert("L" if mode in ("1", "LA") else "RGB")
    image = image.convert("P").convert(mode) if mode == "PA" else image.convert(mode)
    image.save(path) if mode != "PA" else image.convert("RGBA").save(path)
    pixels = read_image(path)
    assert pixels.shape == (4, 5, 3)
    assert pixels.dtype == np.uint8
    assert (pixels == 255).all()


def test_a_transparent_palette_reads_without_a_warning(tmp_path: Path) -> None:
    image = Image.new("P", (5, 4))
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.save(tmp_path / "image.png", transparency=b"\x00\x80")
    assert (read_image(tmp_path / "image.png") == (10, 20, 30)).all()


def test_exif_rotation_is_applied(tmp_path: Path) -> None:
    image = Image.new("RGB", (20, 10))
    exif = image.getexif()
    exif[0x0112] = 6
    image.save(tmp_path / "turned.jpg", exif=exif)
    with open_source(tmp_path / "turned.jpg") as source:
        assert source.size == (20, 10)


@pytest.mark.parametrize(("dtype", "suffix"), [(np.uint16, "png"), (np.int32, "tif"), (np.float32, "tif")])
def test_deep_images_are_refused(tmp_path: Path, dtype: type[np.generic], suffix: str) -> None:
    Image.fromarray(np.ones((4, 5), dtype)).save(tmp_path / f"deep.{suffix}")
    with pytest.raises(FrameError, match="convert it to 8 bit"):
        open_source(tmp_path)


# --- cameras and streams ---


@pytest.mark.parametrize("source", [97, "97"])
def test_a_camera_that_is_not_there(source: int | str) -> None:
    with pytest.raises(SourceError, match="cannot open camera 97"):
        open_source(source)


@pytest.mark.parametrize("source", [-1, "-1", True, 2**31, 10**11])
def test_no_camera_index(source: int | str) -> None:
    with pytest.raises(SourceError, match="camera index lies between 0 and"):
        open_source(source)


def test_a_camera_is_live_and_names_its_end(fake: list[Any]) -> None:
    capture = FakeCapture([(8, 8)] * 3, -1)
    fake.append(capture)
    seen = []
    with open_source(0) as source:
        assert source.live
        assert source.frame_count is None
        with pytest.raises(SourceError, match="camera 0 stopped delivering at frame 3"):
            seen.extend(source)
    assert len(seen) == 3
    assert capture.released


@pytest.mark.parametrize("rate", [90_000.0, 1000.5, 0.0, -25.0, float("nan"), float("inf")])
def test_a_rate_that_cannot_be_is_unknown(fake: list[Any], rate: float) -> None:
    """Some streams state their time base instead: 90000, of RTSP."""
    fake.append(FakeCapture([(8, 8)] * 3, 0, fps=rate, clock=False))
    with open_source("rtsp://10.0.0.7/live") as source:
        assert source.fps is None


def test_the_highest_rate_that_is_believed(fake: list[Any]) -> None:
    fake.append(FakeCapture([(8, 8)] * 3, 0, fps=1000.0))
    with open_source("rtsp://10.0.0.7/live", stride=2) as source:
        assert source.fps == 500


def test_what_is_counted_by_such_a_rate_is_no_length(video: Path, fake: list[Any]) -> None:
    fake.append(FakeCapture([(8, 8)] * 30, 90_000, fps=90_000.0, clock=False))
    with open_source(video) as source:
        assert (source.frame_count, source.live) == (None, False)
        assert len(list(source)) == 30


class Hanging(FakeCapture):
    """A camera that gives nothing after its first frame until it is told to."""

    def __init__(self) -> None:
        super().__init__([(8, 8)] * 3, -1)
        self.hangs, self.go_on = threading.Event(), threading.Event()

    def grab(self) -> bool:
        if self.position:
            self.hangs.set()
            assert self.go_on.wait(20)
        return super().grab()


def test_nobody_waits_for_a_camera_that_hangs(fake: list[Any]) -> None:
    capture = Hanging()
    fake.append(capture)
    source = open_source(0)
    thread = threading.Thread(target=lambda: list(source))
    thread.start()
    assert capture.hangs.wait(20)
    before = time.monotonic()
    source.close()
    assert time.monotonic() - before < 1
    assert not capture.released, "in use by the thread"
    capture.go_on.set()
    thread.join(20)
    assert capture.released, "by the thread, when it came back"


def test_a_source_that_is_closed_without_a_thread(fake: list[Any]) -> None:
    capture = Hanging()
    fake.append(capture)
    with open_source(0) as source:
        frames = iter(source)
        next(frames)
    assert capture.released
    assert list(frames) == []


def test_a_camera_without_frames(fake: list[Any]) -> None:
    fake.append(FakeCapture([], 0))
    with pytest.raises(SourceError, match="camera 0 has no frames"):
        open_source("0")


def test_a_lost_stream_is_opened_again(fake: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    naps: list[float] = []
    monkeypatch.setattr(captures.time, "sleep", naps.append)
    fake += [FakeCapture([(8, 8)] * n, 0) for n in (3, 0, 2, 0, 0, 0, 0, 0)]
    seen = []
    with open_source("rtsp://admin:password@10.0.0.7/live?key=abc") as source:
        assert source.live
        with pytest.raises(
            SourceError, match=r"rtsp://\*\*\*@10\.0\.0\.7/live\?\*\*\* was lost at frame 5"
        ) as caught:
            seen.extend(frame.index for frame in source)
    assert seen == [0, 1, 2, 3, 4]
    assert naps == [1, 2, 1, 2, 4, 8, 16]
    assert "word" not in str(caught.value)
    assert "abc" not in str(caught.value)


def test_a_url_with_a_length_is_no_live_stream(fake: list[Any]) -> None:
    fake.append(FakeCapture([(8, 8)] * 3, 3))
    with open_source("https://example.org/clip.mp4") as source:
        assert not source.live
        assert len(list(source)) == 3


def test_a_stream_that_cannot_be_opened_keeps_its_password() -> None:
    with pytest.raises(SourceError, match=r"cannot open rtsp://\*\*\*@127") as caught:
        open_source("rtsp://admin:hunter2@127.0.0.1:9/live")
    assert "hunter2" not in str(caught.value)


def test_an_unknown_scheme() -> None:
    with pytest.raises(SourceError, match=r"s3://\*\*\*@bucket/clip.*rtsp"):
        open_source("s3://key:secret@bucket/clip.mp4")


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("http://host/path", "http://host/path"),
        ("http://host:80/path?token=hunter2", "http://host:80/path?***"),
        ("rtsp://user:hunter2@host:554/path?token=hunter2", "rtsp://***@host:554/path?***"),
        ("rtsp://user:hun/ter:2@host/path", "rtsp://***@host/path"),
        ("rtsp://user:hun?ter2@host/path", "rtsp://***"),
        ("rtsp://user:hun@ter2@host/path", "rtsp://***"),
        ("rtsp://user:hunter2@host/path?mail=me@home", "rtsp://***"),
    ],
)
def test_redaction(url: str, shown: str) -> None:
    assert redact(url) == shown


@given(st.text(alphabet="@?/:x", max_size=6), st.text(alphabet="@?/:x", max_size=6))
def test_no_url_shows_its_secrets(before: str, after: str) -> None:
    assert "S" not in redact(f"rtsp://user:{before}SSS{after}@host/path?key=SSS{before}")


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
