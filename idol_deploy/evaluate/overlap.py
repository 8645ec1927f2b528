"""How much tracks overlap: in each frame, and over the whole video.

D: tracks that were found; G: tracks of the ground truth; T: frames.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from idol_deploy.data.masks import Masks
from idol_runtime.optional import import_optional

__all__ = ["frame_overlaps", "track_overlaps"]


def track_overlaps(
    found: Sequence[Masks],  # D
    truth: Sequence[Masks],  # G
) -> NDArray[np.float64]:  # [D, G]
    """Pixels in common over pixels of either, both summed over the frames; 0 where neither is ever seen.

    Equal to the last bit to sums of the areas of merged masks, which is how the official evaluators compute it.
    """
    common = np.zeros((len(found), len(truth)))
    if not common.size:
        return common
    areas_found = np.stack([masks.areas for masks in found]).astype(np.float64)  # [D, T]
    areas_truth = np.stack([masks.areas for masks in truth]).astype(np.float64)  # [G, T]
    for frame, rows, columns, overlap in frame_overlaps(found, truth):
        both = areas_found[rows, frame][:, None] + areas_truth[columns, frame]
        # An overlap is c / (a + b - c): its c is a whole number, and rounding finds it.
        common[np.ix_(rows, columns)] += np.rint(both * overlap / (1 + overlap))
    either = areas_found.sum(1)[:, None] + areas_truth.sum(1) - common
    overlaps: NDArray[np.float64] = np.divide(common, either, out=np.zeros_like(common), where=either > 0)
    return overlaps


def frame_overlaps(
    found: Sequence[Masks],  # D
    truth: Sequence[Masks],  # G
) -> Iterator[tuple[int, list[int], list[int], NDArray[np.float64]]]:
    """For each frame where tracks of both are seen: the frame, which of `found`, which of `truth`, and their IoU."""
    coco: Any = import_optional("pycocotools.mask", "pycocotools", "evaluate", "comparing masks")
    frames = len(truth[0].counts) if truth else 0
    for frame in range(frames):
        columns = [g for g, masks in enumerate(truth) if masks.counts[frame] is not None]
        rows = [d for d, masks in enumerate(found) if masks.counts[frame] is not None] if columns else []
        if rows:
            left = [found[d].rle(frame) for d in rows]
            right = [truth[g].rle(frame) for g in columns]
            yield frame, rows, columns, np.asarray(coco.iou(left, right, [0] * len(right)))
