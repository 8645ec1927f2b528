"""Image files as frames, read with Pillow as the published reader does: RGB, EXIF rotation applied."""

import re
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from idol_runtime.errors import FrameError, SourceError
from idol_runtime.frames import RGBImage

__all__ = [
    "IMAGE_EXTENSIONS",
    "NOMINAL_FPS",
    "ImageReader",
    "list_images",
    "natural_key",
    "open_image",
    "read_image",
]

IMAGE_EXTENSIONS = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
# Image files carry no clock: their frame times, and a video made of them, use this rate.
NOMINAL_FPS = 30.0


def natural_key(path: Path) -> tuple[list[str | int], str]:
    """Sort key that reads runs of digits as numbers, so that frame2 comes before frame10.

    Letter case counts only between names that are otherwise equal.
    """
    text = str(path)
    # Odd positions hold the digits, so that two keys never compare a number with text.
    parts = re.split(r"([0-9]+)", text)
    return [int(part) if i % 2 else part.casefold() for i, part in enumerate(parts)], text


def list_images(paths: list[Path], name: str) -> list[Path]:
    """The image files among paths, in natural order; hidden files are left out.

    Raises:
        SourceError: there is none.
    """
    images = [
        path
        for path in paths
        if path.suffix.lower() in IMAGE_EXTENSIONS and not path.name.startswith(".") and path.is_file()
    ]
    if not images:
        held = f"{len(paths)} other entries" if paths else "nothing"
        raise SourceError(
            f"{name} holds no image ({held}); images end in {' '.join(IMAGE_EXTENSIONS)}, "
            "and videos are given one by one"
        )
    return sorted(images, key=natural_key)


def read_image(path: Path, *, index: int | None = None) -> RGBImage:
    """Read an image file as [H, W, 3] uint8 RGB; arguments and errors as `open_image`."""
    return np.array(open_image(path, index=index))


def open_image(path: Path, *, index: int | None = None) -> Image.Image:
    """Read an image file as Pillow's RGB image, which costs half as much as an array.

    Grey, palette, alpha and CMYK images become RGB as with Pillow's `convert("RGB")`: grey in three equal
    channels, alpha dropped without blending.

    Args:
        path: the file.
        index: its frame index, for the message.

    Raises:
        FrameError: more than 8 bits a channel.
        SourceError: missing, damaged, or no image.
    """
    where = f"{path} (frame {index})" if index is not None else str(path)
    try:
        with Image.open(path) as image:
            mode = image.mode
            pixels = None if mode in ("I", "F") or mode.startswith("I;") else _to_rgb(image)
    except Exception as error:  # a decoder raises whatever its parser meets: struct.error, SyntaxError, ...
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise SourceError(f"cannot read image {where}: {reason}; replace or remove the file") from error
    if pixels is None:
        raise FrameError(
            f"image {where} has more than 8 bits a channel (Pillow mode {mode}); convert it to 8 bit"
        )
    return pixels


def _to_rgb(image: Image.Image) -> Image.Image:
    image.load()
    ImageOps.exif_transpose(image, in_place=True)
    if image.mode == "RGB":  # else Pillow would copy it
        return image
    # Pillow would only warn that RGB does not keep a palette's transparency.
    image.info.pop("transparency", None)
    return image.convert("RGB")


class ImageReader:
    """Reads image files one after the other.

    Attributes:
        name: the source as the user gave it.
        fps: frames per second; None: images have no rate.
        frame_count: number of files.
        live: False.
        size: (height, width) of the first image in pixels.
        time_s: time of the frame read last, in seconds at `NOMINAL_FPS`.

    Raises:
        FrameError: the first image has more than 8 bits a channel.
        SourceError: the first image cannot be read.
    """

    fps: float | None = None
    live = False

    def __init__(self, paths: list[Path], name: str) -> None:
        self.name = name
        self.frame_count: int | None = len(paths)
        self._paths = paths
        self._next = 0
        self._first: RGBImage | None = read_image(paths[0], index=0)
        self.size = self._first.shape[0], self._first.shape[1]

    @property
    def time_s(self) -> float:
        """Time of the frame read last, in seconds."""
        return max(self._next - 1, 0) / NOMINAL_FPS

    def describe(self, index: int) -> str:
        """Which file frame `index` comes from."""
        return f"{self._paths[index]} (frame {index})"

    def read(self) -> RGBImage | None:
        """The next image as [H, W, 3] uint8 RGB; None after the last.

        Raises:
            FrameError: more than 8 bits a channel.
            SourceError: the file cannot be read.
        """
        if self._next == len(self._paths):
            return None
        index, self._next = self._next, self._next + 1
        image, self._first = self._first, None
        return read_image(self._paths[index], index=index) if image is None else image

    def skip(self) -> bool:
        """Pass over the next image; False after the last."""
        if self._next == len(self._paths):
            return False
        self._next += 1
        self._first = None
        return True

    def close(self) -> None:
        """Nothing is held open between images."""
