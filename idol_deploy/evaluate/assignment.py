"""Which track shows an annotated instance in which frame, and how often that changes.

G: annotated instances; T: frames.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from idol_deploy.data.masks import Masks
from idol_deploy.evaluate.overlap import frame_overlaps

__all__ = ["NOBODY", "count_switches", "who_shows_whom"]

NOBODY = -1
_LEAST_OVERLAP = 0.5


def who_shows_whom(found: Sequence[Masks], truth: Sequence[Masks]) -> NDArray[np.int64]:  # [G, T]
    """For each instance and frame, the number in `found` of the track that shows it; `NOBODY` where none does.

    In each frame the pairs of largest mask IoU come first, none below a half; a track shows one instance at most.

    Raises:
        MissingDependencyError: pycocotools is not installed.
    """
    shown = np.full((len(truth), len(truth[0].counts) if truth else 0), NOBODY, np.int64)
    for frame, rows, columns, overlaps in frame_overlaps(found, truth):
        free = overlaps.copy()
        while free.max() >= _LEAST_OVERLAP:
            row, column = np.unravel_index(free.argmax(), free.shape)
            shown[columns[column], frame] = rows[row]
            free[row], free[:, column] = 0, 0
    return shown


def count_switches(shown: NDArray[np.int64]) -> NDArray[np.int64]:
    """How often each row [G, T] goes over from one track to another, `NOBODY` in between or not; [G]."""
    seen = (row[row != NOBODY] for row in shown)
    return np.array([np.count_nonzero(np.diff(row)) for row in seen], np.int64)
