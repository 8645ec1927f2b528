"""Image files with several pictures as a frame source: animated GIF, PNG and WebP, and TIFF stacks."""

import os
from pathlib import Path

import numpy as np
from PIL import Image

from idol_runtime.errors import FrameError
from idol_runtime.frames import RGBImage
from idol_runtime.sources.base import NOMINAL_FPS, DecodingReader, Source, local_path
from idol_runtime.sources.images import image_error, picture_indices, to_rgb

__all__ = ["AnimationReader"]

_SUFFIXES = (".apng", ".gif", ".png", ".tif", ".tiff", ".webp")
# Browsers show a picture that states this duration or less for a tenth of a second.
_SHORTEST_MS, _DEFAULT_MS = 10, 100


class AnimationReader(DecodingReader):
    """An image file with several pictures, read with Pillow; each picture is a frame.

    `time_s` sums up the stated durations; pictures of a TIFF stack have none and count at `NOMINAL_FPS`. `fps` is
    that of the first picture's duration.
    """

    def __init__(self, source: Source) -> None:
        """Open the file and read its first picture.

        Args:
            source: path of the file.

        Raises:
            FrameError: the first picture has more than 8 bits per channel.
            SourceError: the file cannot be read.
        """
        self.name = str(source)
        self._next = 0
        try:
            self._image = Image.open(local_path(source))
            self._indices = picture_indices(self._image)
        except Exception as error:  # decoders raise any exception type
            raise image_error(self.name, error) from error
        self.frame_count = len(self._indices)
        self._end_s = 0.0  # end of the last picture read
        self._first = self._decode()
        self.fps = None if self._image.format == "TIFF" else 1 / self._end_s
        assert self._first is not None
        self.size = self._first.shape[0], self._first.shape[1]

    @classmethod
    def accepts(cls, source: Source) -> bool:
        """Return True for an existing file with the suffix of such a format and more than one picture."""
        path = local_path(source)
        if path.suffix.lower() not in _SUFFIXES or not os.path.isfile(path):
            return False
        try:
            with Image.open(path) as image:
                return len(picture_indices(image)) > 1
        except Exception:  # noqa: BLE001 - decoders raise any exception type; reported when the file is read
            return False

    @classmethod
    def paths(cls, source: Source) -> list[Path]:
        """Return the file."""
        return [local_path(source)]

    def close(self) -> None:
        """Close the file."""
        self._image.close()

    def _advance(self) -> bool:
        return self._decode() is not None

    def _decode(self) -> RGBImage | None:
        if self._next == self.frame_count:
            return None
        where = f"{self.name} (picture {self._next})"
        try:
            self._image.seek(self._indices[self._next])
            pixels = np.array(to_rgb(self._image.copy(), where))
        except FrameError:
            raise
        except Exception as error:  # decoders raise any exception type
            raise image_error(where, error) from error
        self._next += 1
        self.time_s = self._end_s
        if self._image.format == "TIFF":
            self._end_s = self._next / NOMINAL_FPS
        else:
            stated = float(self._image.info.get("duration") or 0)
            self._end_s += (stated if stated > _SHORTEST_MS else _DEFAULT_MS) / 1000
        return pixels
