"""Image files with several pictures: all of them are frames, at their times."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from PIL.TiffImagePlugin import AppendingTiffWriter

from idol_runtime.errors import FrameError, SourceError
from idol_runtime.sources.animation import AnimationReader
from idol_runtime.sources.images import read_image
from idol_runtime.sources.opening import open_source, reader_kind
from samples.captures import HEIGHT, WIDTH, read_all, shade

DURATIONS_MS = [40, 120, 40, 500]


def pictures(count: int = 4) -> list[Image.Image]:
    """Return pictures whose shades differ, with a square that moves."""
    images = []
    for i in range(count):
        pixels = np.full((HEIGHT, WIDTH, 3), shade(i), np.uint8)
        pixels[4 * i : 4 * i + 8, 8:16] = (250, 10, 10)
        images.append(Image.fromarray(pixels))
    return images


@pytest.mark.parametrize("name", ["a.webp", "a.png", "a.apng", "a.gif"])
@pytest.mark.parametrize("stride", [1, 2])
def test_all_pictures_of_an_animation_are_frames(tmp_path: Path, name: str, stride: int) -> None:
    first, *others = pictures()
    form = "PNG" if name.endswith("png") else None
    options = {"lossless": True} if name.endswith("webp") else {}
    first.save(
        tmp_path / name, form, save_all=True, append_images=others, duration=DURATIONS_MS, loop=0, **options
    )
    with open_source(tmp_path / name, stride=stride) as source:
        assert (source.frame_count, source.fps, source.live) == (-(-4 // stride), 25 / stride, False)
        frames = list(source)
    assert [frame.time_s for frame in frames] == pytest.approx([0, 0.04, 0.16, 0.2][::stride])
    for frame, picture in zip(frames, pictures()[::stride], strict=True):
        assert np.abs(frame.image.astype(int) - np.asarray(picture)).max() <= 3


def test_a_stack_of_pages_has_no_times_and_no_copies(tmp_path: Path) -> None:
    with AppendingTiffWriter(str(tmp_path / "a.tif"), True) as stack:
        for picture in pictures():
            for page, kind in (
                (picture, 0),
                (picture.resize((8, 6)), 1),
            ):  # NewSubfileType: 1 is a reduced copy
                page.save(stack, "TIFF", tiffinfo={254: kind})
                stack.newFrame()
    frames = read_all(tmp_path / "a.tif")
    assert [frame.time_s for frame in frames] == pytest.approx([0, 1 / 30, 2 / 30, 3 / 30])
    assert [int(frame.image[0, 0, 0]) for frame in frames] == [shade(i) for i in range(4)]


def test_a_picture_without_duration_lasts_a_tenth_of_a_second(tmp_path: Path) -> None:
    first, *others = pictures()
    first.save(tmp_path / "a.gif", save_all=True, append_images=others)
    assert [frame.time_s for frame in read_all(tmp_path / "a.gif")] == pytest.approx([0, 0.1, 0.2, 0.3])


def test_a_still_picture_before_an_animation_is_left_out(tmp_path: Path) -> None:
    first, *others = pictures()
    first.save(tmp_path / "a.png", save_all=True, append_images=others, default_image=True, duration=40)
    frames = read_all(tmp_path / "a.png")
    assert [int(frame.image[0, 0, 0]) for frame in frames] == [shade(i) for i in (1, 2, 3)]


def test_previews_in_a_photograph_are_no_frames(tmp_path: Path) -> None:
    pytest.importorskip("PIL", "11.0", reason="older releases of Pillow write broken MPO files")
    first, *others = pictures()
    first.save(tmp_path / "a.jpg", "MPO", save_all=True, append_images=others)
    assert len(read_all(tmp_path / "a.jpg")) == 1


def test_one_picture_is_no_animation(tmp_path: Path) -> None:
    pictures()[0].save(tmp_path / "a.gif")
    assert reader_kind(tmp_path / "a.gif") is not AnimationReader
    assert len(read_all(tmp_path / "a.gif")) == 1


def test_an_animation_among_images_is_refused(tmp_path: Path) -> None:
    first, *others = pictures()
    first.save(tmp_path / "1.webp", save_all=True, append_images=others)
    first.save(tmp_path / "0.webp")
    with (
        open_source(tmp_path) as source,
        pytest.raises(FrameError, match=r"1\.webp \(frame 1\) holds 4 pictures; give the file itself"),
    ):
        list(source)
    with pytest.raises(FrameError, match="holds 4 pictures"):
        read_image(tmp_path / "1.webp")


@pytest.mark.parametrize("name", ["a.png", "a.gif"])
def test_an_animation_cut_short_yields_its_good_pictures_first(tmp_path: Path, name: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (12, HEIGHT, WIDTH, 3), np.uint8)
    first, *others = (Image.fromarray(pixels) for pixels in noise)
    first.save(tmp_path / name, save_all=True, append_images=others, duration=40)
    data = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(data[: 9 * len(data) // 10])
    seen = []
    with (
        open_source(tmp_path / name) as source,
        pytest.raises(SourceError, match=r"\(picture 10\): image file is truncated"),
    ):
        seen.extend(source)
    assert len(seen) == 10
