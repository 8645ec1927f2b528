"""Image files as a frame source, read with Pillow as in the published reader: RGB, EXIF rotation applied."""

import glob
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from idol_runtime.errors import FrameError, SourceError
from idol_runtime.frames import RGBImage
from idol_runtime.sources.base import NOMINAL_FPS, Reader, Source, local_path

__all__ = [
    "ImageReader",
    "image_error",
    "natural_key",
    "open_image",
    "picture_indices",
    "read_image",
    "to_rgb",
]

_EXTENSIONS = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".gif", ".apng")


class ImageReader(Reader):
    """Image files: a folder, a glob pattern, or one file.

    `fps` is None, `frame_count` is the number of files, and `time_s` counts frames at `NOMINAL_FPS`.
    """

    def __init__(self, source: Source) -> None:
        """List the files and read the first one.

        Args:
            source: path of a folder or of an image file, or a glob pattern.

        Raises:
            FrameError: the first image has more than 8 bits per channel.
            SourceError: no image file was found, or the first one cannot be read.
        """
        self.name = str(source)
        self._paths = _list_images(source)
        self._next = 0
        self._first: RGBImage | None = read_image(self._paths[0], index=0)
        self.frame_count = len(self._paths)
        self.size = self._first.shape[0], self._first.shape[1]

    @classmethod
    def accepts(cls, source: Source) -> bool:
        """Return True for a folder, an existing file with an image suffix, or a pattern that is no existing file."""
        path = local_path(source)
        if os.path.isdir(path):
            return True
        if os.path.exists(path):
            return path.suffix.lower() in _EXTENSIONS
        return glob.has_magic(str(source))

    @classmethod
    def paths(cls, source: Source) -> list[Path]:
        """Return the image files and their folders; only the file for a single one."""
        try:
            images = _list_images(source)
        except SourceError:  # raised again when the source is opened
            return []
        return images if images == [local_path(source)] else [*{image.parent for image in images}, *images]

    def describe(self, index: int) -> str:
        """Return the path of the file that frame `index` is read from."""
        return f"{self._paths[index]} (frame {index})"

    def read(self) -> RGBImage | None:
        """Return the next image, [H, W, 3] uint8 RGB; None after the last.

        Raises:
            FrameError: the image has more than 8 bits per channel.
            SourceError: the file cannot be read.
        """
        index, image = self._next, self._first
        if not self.skip():
            return None
        self.time_s = index / NOMINAL_FPS
        return read_image(self._paths[index], index=index) if image is None else image

    def skip(self) -> bool:
        """Skip the next image; return False after the last."""
        if self._next == len(self._paths):
            return False
        self._next += 1
        self._first = None
        return True

    def close(self) -> None:
        """Do nothing: no file stays open between two images."""


def natural_key(path: Path) -> tuple[list[str | int], str]:
    """Return a sort key that compares runs of digits as numbers: frame2 comes before frame10.

    Letter case matters only between names that are otherwise equal.
    """
    text = str(path)
    # Digits are at odd positions, so that a number is never compared with text.
    parts = re.split(r"([0-9]+)", text)
    return [int(part) if i % 2 else part.casefold() for i, part in enumerate(parts)], text


def _list_images(source: Source) -> list[Path]:
    """Return the image files of a folder or pattern in natural order, without hidden files; or the single file."""
    path = local_path(source)
    try:
        if path.is_dir():
            entries = list(path.iterdir())
        elif path.exists():
            return [path]
        else:
            entries = [Path(match) for match in glob.glob(str(path), recursive=True)]
            if not entries:
                raise SourceError(f"{source} matches no file; check the pattern, and quote it in the shell")
    except (OSError, ValueError) as error:  # ValueError: a NUL character in the path
        reason = getattr(error, "strerror", None) or error
        raise SourceError(f"cannot read {source}: {reason}; check the path and its permissions") from error
    images = [
        entry
        for entry in entries
        if entry.suffix.lower() in _EXTENSIONS and not entry.name.startswith(".") and entry.is_file()
    ]
    if not images:
        raise SourceError(
            f"{source} holds no image: {len(entries)} other entries; images end in {' '.join(_EXTENSIONS)}, "
            "and a video is given by the path of its file"
        )
    return sorted(images, key=natural_key)


def read_image(path: Path, *, index: int | None = None) -> RGBImage:
    """Read an image file as [H, W, 3] uint8 RGB; arguments and errors as for `open_image`."""
    return np.array(open_image(path, index=index))


def open_image(path: Path, *, index: int | None = None) -> Image.Image:
    """Read an image file as a Pillow image in RGB mode, which takes half the memory of an array.

    Grey, palette, alpha and CMYK images become RGB as with Pillow's `convert("RGB")`: grey becomes three equal
    channels, and alpha is dropped without blending.

    Args:
        path: image file.
        index: frame index for the error message; None to leave it out.

    Raises:
        FrameError: the image has more than 8 bits per channel, or the file holds several pictures.
        SourceError: the file is missing, damaged, or no image.
    """
    where = f"{path} (frame {index})" if index is not None else str(path)
    try:
        with Image.open(path) as image:
            count = len(picture_indices(image))
            if count == 1:
                return to_rgb(image, where)
    except FrameError:
        raise
    except Exception as error:  # decoders raise any exception type: struct.error, SyntaxError, ...
        raise image_error(where, error) from error
    raise FrameError(
        f"image {where} holds {count} pictures; give the file itself as the source, or store each picture in a file"
    )


def image_error(where: str, error: Exception) -> SourceError:
    """Return the error for an image that cannot be read, from that of its decoder."""
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return SourceError(f"cannot read image {where}: {reason}; replace or remove the file")


def picture_indices(image: Image.Image) -> list[int]:
    """Return the positions of the pictures in an image file that are frames.

    The others are previews in a JPEG file (MPO), reduced copies and masks in a TIFF file, and the still picture of an
    animated PNG.
    """
    indices = list(range(1 if image.format == "MPO" else getattr(image, "n_frames", 1)))
    if len(indices) > 1 and image.format == "TIFF":
        indices = [i for i in indices if not _is_reduced(image, i)]
        image.seek(0)
    return indices[1:] if image.info.get("default_image") else indices


def _is_reduced(image: Any, index: int) -> bool:
    image.seek(index)
    return bool(image.tag_v2.get(254, 0) & 0b101)  # NewSubfileType: reduced copy, page, mask


def to_rgb(image: Image.Image, where: str) -> Image.Image:
    """Return an open image upright and in RGB mode.

    Raises:
        FrameError: the image has more than 8 bits per channel.
    """
    if image.mode in ("I", "F") or image.mode.startswith("I;"):
        raise FrameError(
            f"image {where} has more than 8 bits per channel (Pillow mode {image.mode}); convert it to 8 bit"
        )
    image.load()
    ImageOps.exif_transpose(image, in_place=True)
    if image.mode == "RGB":  # convert() would copy it
        return image
    # With transparency information, Pillow would warn that RGB does not keep it.
    image.info.pop("transparency", None)
    return image.convert("RGB")
