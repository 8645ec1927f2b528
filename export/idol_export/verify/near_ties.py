"""Which decisions a run may have made, given that float32 places a quantity `near` its value and not on it.

Each function replays one kind of decision from the outcome that a run reports: whatever it decided before is
taken as it is, so that a chain of consequences needs no excuse of its own. What is returned cannot follow
from the quantities however they are rounded.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from idol_runtime.config import AssociationConfig
from idol_runtime.tracking.association import NO_TRACK, MemoryBank, bi_softmax, class_iou, multi_cue
from idol_runtime.tracking.detection import Detections

__all__ = ["Matching", "Overlaps", "impossible_identities", "impossible_survivors"]

Bools = NDArray[np.bool_]
Floats = NDArray[np.float32]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Overlaps:
    """Which of n entries may and which must suppress one another, and which may come first.

    Attributes:
        may: [n, n] so near the threshold or above it that one may suppress the other.
        must: [n, n] so far above it that not both can survive.
        before: [n, n] row may have been looked at before column.
        required: [n] the entry was certainly among those looked at.
    """

    may: Bools
    must: Bools
    before: Bools
    required: Bools


def impossible_survivors(overlaps: Overlaps, survives: Bools) -> Bools:
    """Entries [n] whose fate in greedy suppression cannot be what `survives` [n] says.

    Its outcome is the one set in which no two suppress each other, and whose members suppress all else.
    """
    together = survives & (overlaps.must & survives[None]).any(axis=1)
    excused = (overlaps.may & overlaps.before & survives[:, None]).any(axis=0)
    return together | (~survives & ~excused & overlaps.required)


def impossible_identities(
    found: Detections,
    bank: MemoryBank | None,
    next_id: int,
    ids: Ints,
    config: AssociationConfig,
    near: float,
) -> Bools:
    """Detections [n] that cannot have been given these `ids` [n], each judged after the others before it.

    Args:
        found: the detections, in the order in which they choose.
        bank: the tracks before this frame.
        next_id: identity of the next new track.
        ids: what a run gave them.
        config: of the association.
        near: how far off a quantity may be.
    """
    matching = Matching(found, bank, ids, config, near)
    known = set(bank.ids.tolist()) if bank is not None else set()
    threshold = config.new_track_score if known else config.init_score
    wrong = np.zeros(len(ids), np.bool_)
    for i, track in enumerate(ids.tolist()):
        if track in known:
            wrong[i] = not matching.may_match(i)
            continue
        born = track != NO_TRACK
        margin = float(found.scores[i]) - threshold
        fits = margin > -near and track == next_id if born else margin <= near
        wrong[i] = not fits or not matching.may_be_left(i)
        next_id = max(next_id, track + 1)
    return wrong


class Matching:
    """Which tracks the detections of a frame may have been matched with, the others' matches being given."""

    def __init__(
        self, found: Detections, bank: MemoryBank | None, ids: Ints, config: AssociationConfig, near: float
    ) -> None:
        self._near, self._config = near, config
        row_of = {} if bank is None else {track: row for row, track in enumerate(bank.ids.tolist())}
        self._rows = np.array([row_of.get(track, -1) for track in ids.tolist()], np.int64)
        self._empty = not row_of
        if bank is None or self._empty:
            return
        self._seen = bank.frames_seen.astype(np.float64)
        tracks = bank.embeddings()
        if config.matching == "multi_cue":
            pairs = (found.embeddings, tracks), (found.boxes, bank.boxes), (found.labels, bank.labels)
            self._cues = multi_cue(*pairs, found.scores).astype(np.float64)
        elif config.matching == "iou":
            overlap = class_iou((found.boxes, bank.boxes), (found.labels, bank.labels))
            self._similarity = overlap.astype(np.float64)
        else:
            self._similarity = bi_softmax(found.embeddings, tracks).astype(np.float64)

    def may_match(self, i: int) -> bool:
        """Whether detection i can have the track that it was given."""
        row = int(self._rows[i])
        if self._config.matching == "multi_cue":
            rivals = [k for k in range(len(self._rows)) if k != i and self._asks_only(k, row)]
            beaten = any(self._cues[k, row + 1] > self._cues[i, row + 1] + self._near for k in rivals)
            twice = (self._rows == row).sum() > 1
            return bool(self._asked(i)[row + 1] and not beaten and not twice)
        lower, upper, free = self._values(i)
        others = np.where(np.arange(len(lower)) == row, -np.inf, lower).max()
        return bool(free[row] and upper[row] > self._config.match_score and upper[row] >= others)

    def may_be_left(self, i: int) -> bool:
        """Whether detection i can have been matched with none."""
        if self._empty:
            return True
        if self._config.matching == "multi_cue":
            asked = self._asked(i)
            return bool(asked[0]) or any(
                self._lost(i, column - 1) for column in np.flatnonzero(asked).tolist()
            )
        lower, _, _ = self._values(i)
        return bool((lower <= self._config.match_score).all())

    def _asked(self, i: int) -> Bools:
        cues = self._cues[i]
        return np.asarray(cues >= cues.max() - 2 * self._near)

    def _asks_only(self, k: int, row: int) -> bool:
        asked = self._asked(k)
        return bool(asked[row + 1] and asked.sum() == 1)

    def _lost(self, i: int, row: int) -> bool:
        winners = np.flatnonzero(self._rows == row)
        limit = self._cues[i, row + 1] - 2 * self._near
        return any(self._cues[k, row + 1] >= limit for k in winners.tolist() if k != i)

    def _values(self, i: int) -> tuple[NDArray[np.float64], NDArray[np.float64], Bools]:
        """Bounds of the weighted similarity to each track [m], and which tracks are still free [m]."""
        threshold = self._config.match_score
        free = ~np.isin(np.arange(len(self._seen)), self._rows[:i])
        lower = np.where(free, self._similarity[i] - self._near, 0.0)
        upper = np.where(free, self._similarity[i] + self._near, 0.0)
        certain, open_ = lower > threshold, (upper > threshold) & (lower <= threshold)
        weighs = self._config.frame_weight and self._config.matching == "embedding"
        if not weighs or (certain | open_).sum() < 2:
            return lower, upper, free
        low, high = _mean_bounds(self._seen[certain], self._seen[open_])
        least = np.where(certain, self._seen, np.where(open_, np.minimum(self._seen, low), low))
        most = np.where(certain, self._seen, np.where(open_, np.maximum(self._seen, high), high))
        if certain.sum() < 2:
            # Too few candidates may be left for any weighing.
            least, most = np.minimum(least, 1), np.maximum(most, 1)
        return np.where(lower > 0, lower * least, lower), upper * most, free


def _mean_bounds(certain: NDArray[np.float64], open_: NDArray[np.float64]) -> tuple[float, float]:
    """The least and the greatest mean of `certain` with any of `open_`, at least one value in all."""
    bounds = []
    for sign in (1, -1):
        taken = list(certain)
        for value in sorted(sign * open_):
            if not taken or value < np.mean(sign * np.array(taken)):
                taken.append(sign * value)
        bounds.append(float(np.mean(taken)))
    return bounds[0], bounds[1]
