"""Agreement of the tracks of two runs: IDF1 of one run against the other (Ristani et al. 2016)."""

import zlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from idol_runtime.tracking.results import FrameResult

__all__ = ["PackedFrame", "TrackComparison", "best_assignment"]

_SAME = 0.5  # lowest IoU of two masks of one instance


@dataclass(frozen=True)
class PackedFrame:
    """Identities and compressed masks of one frame, a few kilobytes, so that a whole video fits in memory."""

    ids: NDArray[np.int64]
    shape: tuple[int, ...]
    packed: bytes

    @classmethod
    def of(cls, result: FrameResult) -> "PackedFrame":
        """Pack a frame's result."""
        return cls(result.ids, result.masks.shape, zlib.compress(np.packbits(result.masks).tobytes(), 1))

    @property
    def masks(self) -> NDArray[np.bool_]:
        """Unpacked masks [n, H, W]."""
        bits = np.frombuffer(zlib.decompress(self.packed), np.uint8)
        return np.unpackbits(bits, count=int(np.prod(self.shape))).reshape(self.shape).astype(np.bool_)

    def __len__(self) -> int:
        return len(self.ids)


class TrackComparison:
    """Frame counts of the overlaps between the tracks of a reference run and those of another run.

    Attributes:
        frames: number of compared frames.
        reference_masks: number of masks of the reference run.
        masks: number of masks of the other run.
    """

    def __init__(self) -> None:
        self._overlaps: Counter[tuple[int, int]] = Counter()  # of the current clip
        self._matched = 0.0  # matched masks of the clips before
        self.frames = self.reference_masks = self.masks = 0

    def next_clip(self) -> None:
        """Begin another clip, whose identities are new."""
        self._matched += _matched(self._overlaps)
        self._overlaps.clear()

    def add_frame(self, reference: FrameResult | PackedFrame, other: FrameResult | PackedFrame) -> None:
        """Add the results of both runs for the same frame."""
        self.frames += 1
        self.reference_masks += len(reference)
        self.masks += len(other)
        overlap = _iou(reference.masks, other.masks)
        for i, j in zip(*np.nonzero(overlap >= _SAME), strict=True):
            self._overlaps[int(reference.ids[i]), int(other.ids[j])] += 1

    @property
    def idf1(self) -> float:
        """IDF1: 2 IDTP / (masks of one run + masks of the other); 1 if neither run has a mask."""
        return self.highest_idf1(self.reference_masks)

    def highest_idf1(self, reference_masks: int) -> float:
        """Return the highest IDF1 that is still possible.

        A frame adds at most the number of its reference masks to IDTP, and then as many masks of the other run. More or
        fewer masks of the other run would make IDF1 lower.

        Args:
            reference_masks: number of masks of the reference run in all frames, also those that were not yet added.
        """
        remaining = reference_masks - self.reference_masks
        masks = reference_masks + self.masks + remaining
        return 2 * (self._matched + _matched(self._overlaps) + remaining) / masks if masks else 1.0


def _matched(overlaps: Mapping[tuple[int, int], int]) -> float:
    """Return IDTP: the number of overlaps under the best assignment of identities to identities."""
    rows = {a: row for row, a in enumerate(dict.fromkeys(a for a, _ in overlaps))}
    columns = {b: column for column, b in enumerate(dict.fromkeys(b for _, b in overlaps))}
    counts = np.zeros((len(rows), len(columns)))
    for (a, b), count in overlaps.items():
        counts[rows[a], columns[b]] = count
    return best_assignment(counts)


def _iou(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return the IoU [n, m] of masks [n, H, W] and [m, H, W]."""
    left, right = (
        masks.reshape(len(masks), int(np.prod(masks.shape[1:]))).astype(np.float32) for masks in (a, b)
    )
    inter = (left @ right.T).astype(np.float64)
    union = left.sum(1)[:, None] + right.sum(1)[None] - inter
    shares: NDArray[np.float64] = inter / np.maximum(union, 1)
    return shares


def best_assignment(gain: NDArray[np.float64]) -> float:
    """Return the largest sum of entries of a matrix [n, m] with at most one entry per row and column.

    No entry may be negative. The method is shortest augmenting paths with potentials, one row at a time (Jonker and
    Volgenant 1987).
    """
    cost = -(gain if gain.shape[0] <= gain.shape[1] else gain.T)
    n, m = cost.shape
    if not n:
        return 0.0
    u, v = np.zeros(n + 1), np.zeros(m + 1)
    row_of = np.zeros(m + 1, np.int64)  # 0: free
    for i in range(1, n + 1):
        row_of[0], column = i, 0
        least, previous = np.full(m + 1, np.inf), np.zeros(m + 1, np.int64)
        used = np.zeros(m + 1, np.bool_)
        while row_of[column]:
            used[column] = True
            row = row_of[column]
            reduced = cost[row - 1] - u[row] - v[1:]
            better = ~used[1:] & (reduced < least[1:])
            least[1:][better], previous[1:][better] = reduced[better], column
            following = int(np.argmin(np.where(used, np.inf, least)[1:])) + 1
            delta = least[following]
            u[row_of[used]] += delta
            v[used] -= delta
            least[~used] -= delta
            column = following
        while column:
            row_of[column] = row_of[previous[column]]
            column = previous[column]
    return float(-sum(cost[row_of[j] - 1, j - 1] for j in range(1, m + 1) if row_of[j]))
