"""Conversion of decoded pictures to upright RGB, in the same steps as the `ffmpeg` command.

FFmpeg's filters convert the pictures. PyAV's own conversion scales the two fields of an interlaced picture apart, and
its results for 10-bit pictures differ from those of `ffmpeg`.
"""

from collections.abc import Iterator
from fractions import Fraction
from importlib import import_module
from typing import Any

import numpy as np

from idol_runtime.frames import RGBImage

__all__ = ["Converter"]


class Converter:
    """A function of decoded pictures that returns [H, W, 3] uint8 RGB; keeps its filters while the format stays."""

    def __init__(self, av: Any) -> None:
        self._av = av
        self._key: object = None

    def __call__(self, picture: Any) -> RGBImage:
        """Convert a picture.

        Raises:
            av.FFmpegError: FFmpeg has no conversion of this format.
        """
        filters = *_orientation(picture), ("scale", "flags=bicubic"), ("format", "pix_fmts=rgb24")
        key = (
            picture.width,
            picture.height,
            picture.format.name,
            picture.colorspace,
            picture.color_range,
            filters,
        )
        if key != self._key:
            self._graph, self._key = self._build(picture, filters), key
        self._graph.push(picture)
        return np.ascontiguousarray(self._graph.pull().to_ndarray())

    def _build(self, picture: Any, filters: tuple[tuple[str, str | None], ...]) -> Any:
        graph = self._av.filter.Graph()
        source = graph.add_buffer(
            width=picture.width,
            height=picture.height,
            format=picture.format.name,
            time_base=Fraction(1, 1000),  # any: the pixels do not depend on it
        )
        graph.link_nodes(source, *(graph.add(*entry) for entry in filters), graph.add("buffersink"))
        graph.configure()
        return graph


def _orientation(picture: Any) -> Iterator[tuple[str, str | None]]:
    """Yield the filters that apply the display matrix: quarter turns and mirrors."""
    # Not `picture.side_data`, which refers to the picture and is stored in it: pictures would only be freed by the
    # garbage collector, after hundreds of megabytes.
    data = import_module("av.sidedata.sidedata").SideDataContainer(picture).get("DISPLAYMATRIX")
    if data is None:
        return
    # A pixel at (x, y) is shown at (a * x + c * y, b * x + d * y).
    a, b, _, c, d = np.frombuffer(bytes(data), np.int32)[:5].tolist()
    if abs(b) > abs(a):
        yield "transpose", "cclock_flip"  # exchanges rows and columns
        a, d = c, b
    if a < 0:
        yield "hflip", None
    if d < 0:
        yield "vflip", None
