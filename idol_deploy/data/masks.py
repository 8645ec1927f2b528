"""Compressed masks of an instance over a video, and the mask formats of annotation files.

Files have compressed or uncompressed run lengths, or polygons.
Letters: T frames of a video; H x W its height and width in pixels.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from idol_deploy.data.rle import expand_rle, measure_rles
from idol_runtime.errors import DataError
from idol_runtime.optional import import_optional
from idol_runtime.tracking.rle import MAX_PIXELS

__all__ = ["Masks", "RunLengths", "Segmentation", "compress"]


class RunLengths(msgspec.Struct):
    """A mask as COCO run lengths, compressed if the counts are text.

    Attributes:
        size: [height, width] in pixels.
        counts: lengths of background and foreground runs in turn, down the columns.
    """

    size: tuple[int, int]
    counts: str | list[int]


_FAR = 16  # times the longer side: limit of the points of a polygon
_LONGEST = (
    2**21
)  # pixels: limit of the outline of the polygons of a mask; pycocotools needs 100 bytes for each

Segmentation = RunLengths | list[list[float]] | None


@dataclass(frozen=True, eq=False)
class Masks:
    """Compressed masks of one instance over a video.

    Attributes:
        size: (H, W) in pixels.
        counts: T compressed run lengths; None for frames without the instance and for empty masks.
        areas: [T] number of pixels of each mask.
    """

    size: tuple[int, int]
    counts: tuple[bytes | None, ...]
    areas: NDArray[np.int64]

    @property
    def frames(self) -> tuple[int, ...]:
        """Frames in which the instance is visible."""
        return tuple(np.flatnonzero(self.areas).tolist())

    def rle(self, frame: int) -> dict[str, Any] | None:
        """Return the mask of a frame in the format of pycocotools; None if the instance is not visible."""
        counts = self.counts[frame]
        return None if counts is None else {"size": list(self.size), "counts": counts}

    def at(self, frames: Sequence[int]) -> "Masks":
        """Return the masks of these frames only."""
        return Masks(self.size, tuple(self.counts[t] for t in frames), self.areas[list(frames)])

    def mask(self, frame: int) -> NDArray[np.bool_]:
        """Return the mask of a frame, [H, W] bool."""
        counts = self.counts[frame]
        return np.zeros(self.size, np.bool_) if counts is None else expand_rle(counts, self.size)


def compress(instances: Sequence[tuple[Sequence[Segmentation], tuple[int, int]]]) -> list[Masks | DataError]:
    """Compress and check the masks of instances.

    Args:
        instances: for each instance its T segmentations in a file format and the (H, W) of its video.

    Returns:
        For each instance its masks, or the error of a mask that is invalid or of another size. (pycocotools would loop
        forever on a mask whose runs end early.)

    Raises:
        MissingDependencyError: pycocotools is not installed.
    """
    rows = [_compressed(entries, size) for entries, size in instances]
    texts = [text for row in rows if isinstance(row, list) for text in row if text]
    areas, sizes = measure_rles(texts)
    measured = zip(areas.tolist(), sizes.tolist(), strict=True)
    return [
        row if isinstance(row, DataError) else _checked(row, size, measured)
        for row, (_, size) in zip(rows, instances, strict=True)
    ]


def _checked(
    row: Sequence[bytes | None], size: tuple[int, int], measured: Iterator[tuple[int, int]]
) -> Masks | DataError:
    """Return the masks of an instance, or the first error; takes area and size of its masks from `measured`."""
    areas = np.zeros(len(row), np.int64)
    error = None
    for frame, text in enumerate(row):
        if text:
            areas[frame], pixels = next(measured)
            if pixels != size[0] * size[1]:
                error = error or _invalid(frame, pixels, *size)
    counts = tuple(text if area else None for text, area in zip(row, areas, strict=True))
    return error or Masks(size, counts, areas)


def _compressed(entries: Sequence[Segmentation], size: tuple[int, int]) -> list[bytes | None] | DataError:
    height, width = size
    if height * width > MAX_PIXELS:
        return DataError(
            f"frames of {height}x{width} are too large; at most {MAX_PIXELS} pixels are supported"
        )
    try:
        return [_counts(entry, size, frame) if entry else None for frame, entry in enumerate(entries)]
    except DataError as error:
        return error


def _counts(entry: RunLengths | list[list[float]], size: tuple[int, int], frame: int) -> bytes:
    height, width = size
    if isinstance(entry, list):
        if any(len(polygon) < 6 or len(polygon) % 2 for polygon in entry):
            raise DataError(
                f"frame {frame} has a polygon of less than three points; write at least three x, y pairs"
            )
        # pycocotools rasterises every side pixel by pixel, and counts with 32 bits.
        furthest = max(max(map(max, entry)), -min(map(min, entry)))
        if furthest > _FAR * max(height, width):
            raise DataError(
                f"frame {frame} has a polygon with a point at {furthest:g} in {height}x{width} pixels; "
                "write coordinates in pixels"
            )
        if furthest * sum(map(len, entry)) > _LONGEST and sum(map(_outline, entry)) > _LONGEST:
            raise DataError(
                f"frame {frame} has polygons with an outline of more than {_LONGEST} pixels; write run lengths"
            )
        coco = _coco()
        parts = coco.frPyObjects(entry, height, width)
        return bytes((coco.merge(parts) if len(parts) > 1 else parts[0])["counts"])
    if entry.size != size:
        raise DataError(
            f"the mask of frame {frame} is {entry.size[0]}x{entry.size[1]} (height x width) but its video "
            f"is {height}x{width}; write masks of the video's size"
        )
    if isinstance(entry.counts, str):
        return entry.counts.encode() or b"P"  # an empty text is an invalid mask
    if min(entry.counts, default=-1) < 0 or sum(entry.counts) != height * width:
        raise _invalid(frame, sum(entry.counts), height, width)
    rle = {"size": [height, width], "counts": entry.counts}
    return bytes(_coco().frPyObjects(rle, height, width)["counts"])


def _outline(polygon: Sequence[float]) -> float:
    """Return the length of a polygon's outline in steps from pixel to pixel."""
    points = np.array(polygon).reshape(-1, 2)
    return float(np.abs(points - np.roll(points, 1, axis=0)).max(1).sum())


def _invalid(frame: int, pixels: int, height: int, width: int) -> DataError:
    problem = "is no compressed mask" if pixels < 0 else f"covers {pixels} pixels of {height}x{width}"
    return DataError(f"the mask of frame {frame} {problem}; write it with pycocotools or encode_rle")


def _coco() -> Any:
    return import_optional("pycocotools.mask", "pycocotools", "evaluate", "reading masks")
