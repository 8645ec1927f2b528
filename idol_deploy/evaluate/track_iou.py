"""IoU of tracks, per frame and over a whole video, and the assignment of tracks to annotated instances by it.

Letters: D tracks; G annotated instances; T frames.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from idol_deploy.data.masks import Masks
from idol_runtime.optional import import_optional

__all__ = ["UNASSIGNED", "assign_tracks", "count_switches", "frame_ious", "track_ious"]

UNASSIGNED = -1
_MIN_IOU = 0.5


def track_ious(
    tracks: Sequence[Masks],  # D
    instances: Sequence[Masks],  # G
) -> NDArray[np.float64]:  # [D, G]
    """Return intersection over union of pixels, both summed over the frames; 0 if neither is ever visible.

    Equal to the last bit to the official evaluators, which sum the areas of merged masks.
    """
    common = np.zeros((len(tracks), len(instances)))
    if not common.size:
        return common
    track_areas = np.stack([masks.areas for masks in tracks]).astype(np.float64)  # [D, T]
    instance_areas = np.stack([masks.areas for masks in instances]).astype(np.float64)  # [G, T]
    for frame, rows, columns, ious in frame_ious(tracks, instances):
        both = track_areas[rows, frame][:, None] + instance_areas[columns, frame]
        # The IoU is c / (a + b - c) with a whole number c, which rounding recovers.
        common[np.ix_(rows, columns)] += np.rint(both * ious / (1 + ious))
    union = track_areas.sum(1)[:, None] + instance_areas.sum(1) - common
    result: NDArray[np.float64] = np.divide(common, union, out=np.zeros_like(common), where=union > 0)
    return result


def frame_ious(
    tracks: Sequence[Masks],  # D
    instances: Sequence[Masks],  # G
) -> Iterator[tuple[int, list[int], list[int], NDArray[np.float64]]]:
    """Yield frame, indices of visible tracks, indices of visible instances and their IoU, where both are visible."""
    coco: Any = import_optional("pycocotools.mask", "pycocotools", "evaluate", "comparing masks")
    for frame in range(len(instances[0].counts) if instances else 0):
        columns = [g for g, masks in enumerate(instances) if masks.counts[frame] is not None]
        rows = [d for d, masks in enumerate(tracks) if masks.counts[frame] is not None] if columns else []
        if rows:
            left, right = [tracks[d].rle(frame) for d in rows], [instances[g].rle(frame) for g in columns]
            yield frame, rows, columns, np.asarray(coco.iou(left, right, [0] * len(right)))


def assign_tracks(tracks: Sequence[Masks], instances: Sequence[Masks]) -> NDArray[np.int64]:  # [G, T]
    """Return the index of the track that shows each instance in each frame; `UNASSIGNED` where none does.

    Pairs are taken greedily by mask IoU in each frame, down to an IoU of 0.5; a track shows at most one instance.

    Raises:
        MissingDependencyError: pycocotools is not installed.
    """
    assigned = np.full((len(instances), len(instances[0].counts) if instances else 0), UNASSIGNED, np.int64)
    for frame, rows, columns, ious in frame_ious(tracks, instances):
        free = ious.copy()
        while free.max() >= _MIN_IOU:
            row, column = np.unravel_index(free.argmax(), free.shape)
            assigned[columns[column], frame] = rows[row]
            free[row], free[:, column] = 0, 0
    return assigned


def count_switches(assigned: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return how often each row [G, T] changes from one track to another, also across gaps; [G]."""
    rows = (row[row != UNASSIGNED] for row in assigned)
    return np.array([np.count_nonzero(np.diff(row)) for row in rows], np.int64)
