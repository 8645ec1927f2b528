"""Decisions that float32 rounding cannot explain.

Each function replays one kind of decision and takes the run's earlier decisions as given, so that a difference is
reported once and not again for its consequences. A returned entry cannot follow from the quantities, even if each of
them is off by `near`.
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
    """Possible and certain suppressions between n entries.

    Attributes:
        may: [n, n] True where the overlap may exceed the threshold, so that one entry may suppress the other.
        must: [n, n] True where the overlap certainly exceeds the threshold, so that the two cannot both survive.
        before: [n, n] True where the row's entry may precede the column's entry.
        required: [n] True for entries that certainly took part in the suppression.
    """

    may: Bools
    must: Bools
    before: Bools
    required: Bools


def impossible_survivors(overlaps: Overlaps, survives: Bools) -> Bools:
    """Mark entries [n] for which greedy suppression cannot have the outcome `survives` [n].

    The outcome of greedy suppression is the one set whose members do not suppress each other but suppress all other
    entries.
    """
    together = survives & (overlaps.must & survives[None]).any(axis=1)
    suppressible = (overlaps.may & overlaps.before & survives[:, None]).any(axis=0)
    return together | (~survives & ~suppressible & overlaps.required)


def impossible_identities(
    detections: Detections,
    bank: MemoryBank | None,
    next_id: int,
    ids: Ints,
    config: AssociationConfig,
    near: float,
) -> Bools:
    """Mark detections [n] that cannot have received their `ids` [n], given the ids of the detections before them.

    Args:
        detections: the detections, in the order of matching.
        bank: tracks before this frame; None before the first.
        next_id: identity of the next new track.
        ids: [n] identities that a run assigned.
        config: configuration of the association.
        near: largest rounding error of a quantity.
    """
    matching = Matching(detections, bank, ids, config, near)
    known = set(bank.ids.tolist()) if bank is not None else set()
    threshold = config.new_track_score if known else config.init_score
    wrong = np.zeros(len(ids), np.bool_)
    for i, track in enumerate(ids.tolist()):
        if track in known:
            wrong[i] = not matching.may_match(i)
            continue
        born = track != NO_TRACK
        margin = float(detections.scores[i]) - threshold
        fits = margin > -near and track == next_id if born else margin <= near
        wrong[i] = not fits or not matching.may_stay_unmatched(i)
        next_id = max(next_id, track + 1)
    return wrong


class Matching:
    """Possible matches between the detections of a frame and tracks, given the matches of the other detections."""

    def __init__(
        self,
        detections: Detections,
        bank: MemoryBank | None,
        ids: Ints,
        config: AssociationConfig,
        near: float,
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
            pairs = (
                (detections.embeddings, tracks),
                (detections.boxes, bank.boxes),
                (detections.labels, bank.labels),
            )
            self._cues = multi_cue(*pairs, detections.scores).astype(np.float64)
        elif config.matching == "iou":
            overlap = class_iou((detections.boxes, bank.boxes), (detections.labels, bank.labels))
            self._similarity = overlap.astype(np.float64)
        else:
            self._similarity = bi_softmax(detections.embeddings, tracks).astype(np.float64)

    def may_match(self, i: int) -> bool:
        """Return whether detection i can have received its track."""
        row = int(self._rows[i])
        if self._config.matching == "multi_cue":
            preferred = [self._preferred(k) for k in range(len(self._rows))]
            competitors = [k for k, own in enumerate(preferred) if k != i and own[row + 1] and own.sum() == 1]
            beaten = any(self._cues[k, row + 1] > self._cues[i, row + 1] + self._near for k in competitors)
            twice = (self._rows == row).sum() > 1
            return bool(preferred[i][row + 1] and not beaten and not twice)
        lower, upper, free = self._values(i)
        others = np.where(np.arange(len(lower)) == row, -np.inf, lower).max()
        return bool(free[row] and upper[row] > self._config.match_score and upper[row] >= others)

    def may_stay_unmatched(self, i: int) -> bool:
        """Return whether detection i can have remained without a match."""
        if self._empty:
            return True
        if self._config.matching == "multi_cue":
            preferred = self._preferred(i)
            return bool(preferred[0]) or any(
                self._lost(i, column - 1) for column in np.flatnonzero(preferred).tolist()
            )
        lower, _, _ = self._values(i)
        return bool((lower <= self._config.match_score).all())

    def _preferred(self, i: int) -> Bools:
        cues = self._cues[i]
        return np.asarray(cues >= cues.max() - 2 * self._near)

    def _lost(self, i: int, row: int) -> bool:
        winners = np.flatnonzero(self._rows == row)
        limit = self._cues[i, row + 1] - 2 * self._near
        return any(self._cues[k, row + 1] >= limit for k in winners.tolist() if k != i)

    def _values(self, i: int) -> tuple[NDArray[np.float64], NDArray[np.float64], Bools]:
        """Return lower and upper bounds [m] of the weighted similarity to each track, and the free tracks [m]."""
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
            # Fewer than two candidates may remain, and then the association does not weight them.
            least, most = np.minimum(least, 1), np.maximum(most, 1)
        return np.where(lower > 0, lower * least, lower), upper * most, free


def _mean_bounds(certain: NDArray[np.float64], open_: NDArray[np.float64]) -> tuple[float, float]:
    """Return the smallest and the largest mean of all of `certain` and any of `open_`, of at least one value."""
    bounds = []
    for sign in (1, -1):
        values = list(certain)
        for value in sorted(sign * open_):
            if not values or value < np.mean(sign * np.array(values)):
                values.append(sign * value)
        bounds.append(float(np.mean(values)))
    return bounds[0], bounds[1]
