"""The masks of one instance through a video, held compressed, and the forms in which files hold them.

Files have compressed or uncompressed run lengths, or polygons. T: frames of a video; H, W: its height and width.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from idol_deploy.data.rle import expand_rle, measure_rles
from idol_runtime.errors import DataError
from idol_runtime.optional import import_optional

__all__ = ["Masks", "RunLengths", "Segmentation", "compress"]


class RunLengths(msgspec.Struct):
    """One mask as COCO's run lengths, compressed if the counts are text.

    Attributes:
        size: [height, width] in pixels.
        counts: background and foreground in turn, down the columns.
    """

    size: tuple[int, int]
    counts: str | list[int]


_FAR = 16  # times the longer side: no point of a polygon lies there

Segmentation = RunLengths | list[list[float]] | None


@dataclass(frozen=True, eq=False)
class Masks:
    """The masks of one instance through a video.

    Attributes:
        size: (H, W) in pixels.
        counts: T compressed run lengths; None where the instance is not seen, an empty mask among them.
        areas: [T] pixels of each mask.
    """

    size: tuple[int, int]
    counts: tuple[bytes | None, ...]
    areas: NDArray[np.int64]

    @property
    def frames(self) -> tuple[int, ...]:
        """The frames in which the instance is seen."""
        return tuple(np.flatnonzero(self.areas).tolist())

    def rle(self, frame: int) -> dict[str, Any] | None:
        """The mask of a frame as pycocotools takes it; None where the instance is not seen."""
        counts = self.counts[frame]
        return None if counts is None else {"size": list(self.size), "counts": counts}

    def mask(self, frame: int) -> NDArray[np.bool_]:
        """[H, W] bool."""
        counts = self.counts[frame]
        return np.zeros(self.size, np.bool_) if counts is None else expand_rle(counts, self.size)


def compress(instances: Sequence[tuple[Sequence[Segmentation], tuple[int, int]]]) -> list[Masks | DataError]:
    """Compress and check the masks of instances.

    Args:
        instances: the T segmentations of each, as the files hold them, and the (H, W) of its video.

    Returns:
        For each its masks, or what is wrong with one of them: another size, or no mask. (A mask whose runs end early
        would keep pycocotools busy forever.)

    Raises:
        MissingDependencyError: pycocotools is not installed.
    """
    rows = [_compressed(entries, size) for entries, size in instances]
    flat = [
        (i, t) for i, row in enumerate(rows) if isinstance(row, list) for t, text in enumerate(row) if text
    ]
    areas, sizes = measure_rles([rows[i][t] for i, t in flat])  # type: ignore[index,misc]
    measured = [np.zeros(len(entries), np.int64) for entries, _ in instances]
    for (i, t), area, pixels in zip(flat, areas.tolist(), sizes.tolist(), strict=True):
        row, (height, width) = rows[i], instances[i][1]
        if isinstance(row, DataError):
            continue
        if pixels != height * width:
            rows[i] = _no_mask(t, pixels, height, width)
        elif area:
            measured[i][t] = area
        else:
            row[t] = None
    return [
        row if isinstance(row, DataError) else Masks(size, tuple(row), area)
        for row, (_, size), area in zip(rows, instances, measured, strict=True)
    ]


def _compressed(entries: Sequence[Segmentation], size: tuple[int, int]) -> list[bytes | None] | DataError:
    try:
        return [_counts(entry, size, frame) if entry else None for frame, entry in enumerate(entries)]
    except DataError as error:
        return error


def _counts(entry: RunLengths | list[list[float]], size: tuple[int, int], frame: int) -> bytes:
    height, width = size
    if isinstance(entry, list):
        if any(len(polygon) < 6 or len(polygon) % 2 for polygon in entry):
            raise DataError(f"frame {frame} has a polygon of less than three points; write x, y pairs")
        # pycocotools walks along every side, step by step, and would be gone for hours.
        furthest = max(max(map(max, entry)), -min(map(min, entry)))
        if furthest > _FAR * max(height, width):
            raise DataError(
                f"frame {frame} has a polygon with a point at {furthest:g} in {height}x{width} pixels; write pixels"
            )
        coco = _coco()
        parts = coco.frPyObjects(entry, height, width)
        return bytes((coco.merge(parts) if len(parts) > 1 else parts[0])["counts"])
    if entry.size != size:
        raise DataError(
            f"the mask of frame {frame} is {entry.size[0]}x{entry.size[1]} (height x width) and its video "
            f"{height}x{width}; write masks of the video's size"
        )
    if isinstance(entry.counts, str):
        return entry.counts.encode() or b"P"  # no runs at all are no mask either
    if min(entry.counts, default=-1) < 0 or sum(entry.counts) != height * width:
        raise _no_mask(frame, sum(entry.counts), height, width)
    rle = {"size": [height, width], "counts": entry.counts}
    return bytes(_coco().frPyObjects(rle, height, width)["counts"])


def _no_mask(frame: int, pixels: int, height: int, width: int) -> DataError:
    held = "is no compressed mask" if pixels < 0 else f"covers {pixels} pixels of {height}x{width}"
    return DataError(f"the mask of frame {frame} {held}; write it with pycocotools or encode_rle")


def _coco() -> Any:
    return import_optional("pycocotools.mask", "pycocotools", "evaluate", "reading masks")
