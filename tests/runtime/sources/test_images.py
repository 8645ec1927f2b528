"""Image files: order, modes, and files that are refused."""

import itertools
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from idol_runtime.errors import FrameError, SourceError
from idol_runtime.sources.images import natural_key, read_image
from idol_runtime.sources.opening import open_source
from samples.captures import HEIGHT, WIDTH, read_all, shade, write_images

cv2 = pytest.importorskip("cv2")


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
