"""Writing annotations as YouTube-VIS and OVIS do.

T: frames; H, W: height and width in pixels.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from idol_runtime.errors import OutputError
from idol_runtime.tracking.rle import RLE, encode_rle

__all__ = ["MaskEntry", "box_of", "mask_entry", "occlusion_level", "track_fields", "write_image"]

# Share hidden, up to; of OVIS.
_LEVELS = ((0.0, "no_occlusion"), (0.5, "slight_occlusion"), (1.0, "severe_occlusion"))

MaskEntry = tuple[RLE, list[int], int]  # mask, box, area


def occlusion_level(hidden: float) -> str:
    """What OVIS calls this share."""
    return next(name for most, name in _LEVELS if hidden <= most)


def box_of(mask: NDArray[np.bool_]) -> list[int]:
    """[left, top, width, height] of a mask that is not empty."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    top, left = int(rows[0]), int(columns[0])
    return [left, top, int(columns[-1]) + 1 - left, int(rows[-1]) + 1 - top]


def mask_entry(mask: NDArray[np.bool_]) -> MaskEntry | None:
    """A mask as it is annotated; None for an empty one.

    Args:
        mask: [H, W] bool.

    Raises:
        MissingDependencyError: pycocotools is not installed.
    """
    return (encode_rle(mask), box_of(mask), int(np.count_nonzero(mask))) if mask.any() else None


def track_fields(
    entries: Sequence[MaskEntry | None], hidden: Sequence[float] | None = None
) -> dict[str, Any]:
    """What an annotation says of each frame.

    Args:
        entries: T masks.
        hidden: T shares that are hidden; None for YouTube-VIS, which doesn't say.
    """
    names = ("segmentations", "bboxes", "areas")
    track: dict[str, Any] = {
        name: [None if entry is None else entry[i] for entry in entries] for i, name in enumerate(names)
    }
    if hidden is not None:
        track["occlusion"] = [
            None if entry is None else occlusion_level(share)
            for entry, share in zip(entries, hidden, strict=True)
        ]
    return track


def write_image(path: Path, image: NDArray[np.uint8], quality: int = 95) -> None:
    """Write a JPEG with colours as sharp as the masks, and its folder if it isn't there.

    Args:
        path: where to.
        image: [H, W, 3] RGB.
        quality: of JPEG.

    Raises:
        OutputError: it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path, quality=quality, subsampling=0)
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror or error}; choose another place") from error
