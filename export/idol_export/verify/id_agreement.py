"""Do two runs follow the same things? IDF1 of the tracks of one against those of the other (Ristani et al. 2016)."""

import zlib
from collections import Counter
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from idol_runtime.bundle.certificates import IdAgreement
from idol_runtime.tracking.results import FrameResult

__all__ = ["IdJudge", "SeenFrame", "best_assignment"]

_SAME = 0.5  # mask IoU from which two masks are of one instance


class _Frame(Protocol):
    """What is compared: identities [n], and masks [n, H, W]."""

    @property
    def ids(self) -> NDArray[np.int64]: ...

    @property
    def masks(self) -> NDArray[np.bool_]: ...

    def __len__(self) -> int: ...


@dataclass(frozen=True)
class SeenFrame:
    """What is compared of a frame, in some kilobytes, so that a whole video can be kept."""

    ids: NDArray[np.int64]
    shape: tuple[int, ...]
    packed: bytes

    @classmethod
    def of(cls, result: FrameResult) -> "SeenFrame":
        """A frame's."""
        return cls(result.ids, result.masks.shape, zlib.compress(np.packbits(result.masks).tobytes(), 1))

    @property
    def masks(self) -> NDArray[np.bool_]:
        """[n, H, W], unpacked."""
        bits = np.frombuffer(zlib.decompress(self.packed), np.uint8)
        return np.unpackbits(bits, count=int(np.prod(self.shape))).reshape(self.shape).astype(np.bool_)

    def __len__(self) -> int:
        return len(self.ids)


class IdJudge:
    """Counts, frame by frame, in how many each track of one run lies on each of the other."""

    def __init__(self) -> None:
        self._together: Counter[tuple[tuple[int, int], tuple[int, int]]] = Counter()
        self._clip = 0
        self.frames = self.expected = self.found = 0

    def next_clip(self) -> None:
        """Identities begin anew."""
        self._clip += 1

    def frame(self, expected: _Frame, found: _Frame) -> None:
        """The same frame in both runs."""
        self.frames += 1
        self.expected += len(expected)
        self.found += len(found)
        overlap = _iou(expected.masks, found.masks)
        for i, j in zip(*np.nonzero(overlap >= _SAME), strict=True):
            self._together[(self._clip, int(expected.ids[i])), (self._clip, int(found.ids[j]))] += 1

    @property
    def idf1(self) -> float:
        """2 IDTP / (masks of one run + masks of the other); 1 where neither has any."""
        rows = {key: index for index, key in enumerate(dict.fromkeys(a for a, _ in self._together))}
        columns = {key: index for index, key in enumerate(dict.fromkeys(b for _, b in self._together))}
        counts = np.zeros((len(rows), len(columns)))
        for (a, b), count in self._together.items():
            counts[rows[a], columns[b]] = count
        return (
            2 * best_assignment(counts) / max(self.expected + self.found, 1)
            if self.expected + self.found
            else 1.0
        )

    def agreement(self, limit: float, least: int, source: str) -> IdAgreement:
        """For a certificate."""
        return IdAgreement(self.idf1, self.expected, self.frames, limit, least, source)


def _iou(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> NDArray[np.float64]:
    """[n, m] of masks [n, H, W] and [m, H, W]."""
    left, right = (
        masks.reshape(len(masks), int(np.prod(masks.shape[1:]))).astype(np.float32) for masks in (a, b)
    )
    inter = (left @ right.T).astype(np.float64)
    union = left.sum(1)[:, None] + right.sum(1)[None] - inter
    shares: NDArray[np.float64] = inter / np.maximum(union, 1)
    return shares


def best_assignment(gain: NDArray[np.float64]) -> float:
    """The largest sum of a matrix's entries of which no two share a row or a column; none is below 0.

    Shortest augmenting paths with potentials (Jonker and Volgenant 1987), a row at a time.
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
