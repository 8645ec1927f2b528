"""Annotation entries in the format of YouTube-VIS and OVIS, and frame files.

Letters: T frames; H x W height and width in pixels.
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

# Highest hidden share of each OVIS occlusion level.
_LEVELS = ((0.0, "no_occlusion"), (0.5, "slight_occlusion"), (1.0, "severe_occlusion"))

MaskEntry = tuple[RLE, list[int], int]  # mask, box, area


def occlusion_level(hidden: float) -> str:
    """Return the OVIS occlusion level of a hidden share."""
    return next(name for most, name in _LEVELS if hidden <= most)


def box_of(mask: NDArray[np.bool_]) -> list[int]:
    """Return the box of a non-empty mask, [left, top, width, height]."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    top, left = int(rows[0]), int(columns[0])
    return [left, top, int(columns[-1]) + 1 - left, int(rows[-1]) + 1 - top]


def mask_entry(mask: NDArray[np.bool_]) -> MaskEntry | None:
    """Return the annotation of a mask; None for an empty mask.

    Args:
        mask: [H, W] bool.

    Raises:
        MissingDependencyError: pycocotools is not installed.
    """
    return (encode_rle(mask), box_of(mask), int(np.count_nonzero(mask))) if mask.any() else None


def track_fields(
    entries: Sequence[MaskEntry | None], hidden: Sequence[float] | None = None
) -> dict[str, Any]:
    """Return the per-frame fields of an annotation.

    Args:
        entries: T annotated masks.
        hidden: T hidden shares for OVIS; None for YouTube-VIS, which has no occlusion (default).
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
    """Write a JPEG at full colour resolution; create its folder if needed.

    Args:
        path: image file to write.
        image: [H, W, 3] RGB.
        quality: JPEG quality, 1 to 95; higher is sharper and larger (default: 95).

    Raises:
        OutputError: the file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path, quality=quality, subsampling=0)
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror or error}; choose another place") from error
