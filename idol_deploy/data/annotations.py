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
from idol_runtime.tracking.crops import crop_masks
from idol_runtime.tracking.rle import RLE, encode_crops

__all__ = ["MaskEntry", "mask_entry", "occlusion_level", "track_fields", "write_image"]

# Highest hidden share of each OVIS occlusion level.
_LEVELS = ((0.0, "no_occlusion"), (0.5, "slight_occlusion"), (1.0, "severe_occlusion"))

MaskEntry = tuple[RLE, list[int], int]  # mask, box [left, top, width, height], area in pixels


def occlusion_level(hidden: float) -> str:
    """Return the OVIS occlusion level of a hidden share."""
    return next(name for most, name in _LEVELS if hidden <= most)


def mask_entry(mask: NDArray[np.bool_]) -> MaskEntry | None:
    """Return the annotation of a mask; None for an empty mask.

    Args:
        mask: [H, W] bool.
    """
    (crop,) = crop_masks(mask[None])
    height, width = crop.pixels.shape
    if not height:
        return None
    (rle,) = encode_crops([crop], (mask.shape[0], mask.shape[1]))
    return rle, [crop.left, crop.top, width, height], int(np.count_nonzero(crop.pixels))


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
