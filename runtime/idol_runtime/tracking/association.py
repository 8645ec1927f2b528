"""Association: from the detections of each frame to tracks, with IDOL's memory bank and bi-softmax.

The same tracker runs in PyTorch evaluation and on every device (docs/idol.md §4, steps 4 to 7; paper, section 3.3).
Letters: n detections of a frame, best first; m tracks in the bank, oldest first; T embeddings stored per track;
C embedding width; k selected rows. The cost of a frame depends only on the number of tracks in the bank, which
`max_tracks` limits. Identities and frame numbers are 64-bit: 300 new identities in each of 1000 frames a second last
for 900,000 years.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, TypeAlias

import numpy as np

from idol_runtime.blas import one_blas_thread
from idol_runtime.config import AssociationConfig
from idol_runtime.tracking.boxes import Floats, Ints, box_iou, cxcywh_to_xyxy

__all__ = [
    "NO_TRACK",
    "MemoryBank",
    "Tracker",
    "TrackerState",
    "bi_softmax",
    "class_iou",
    "multi_cue",
    "softmax",
]

NO_TRACK = -1

_Now: TypeAlias = tuple[int, float]  # number of the frame, and its time in seconds


def softmax(x: Floats, axis: int) -> Floats:
    """Return the softmax along one axis, in the type of `x`."""
    out: Floats = x - x.max(axis=axis, keepdims=True)
    np.exp(out, out=out)
    out /= out.sum(axis=axis, keepdims=True)
    return out


def bi_softmax(detections: Floats, tracks: Floats) -> Floats:  # [n, C], [m, C] -> [n, m]
    """Return the mean of two softmaxes of the dot products: over tracks and over detections (paper, eq. 7)."""
    products = detections @ tracks.T
    similarity = softmax(products, axis=1)
    similarity += softmax(products, axis=0)
    similarity /= np.float32(2)
    return similarity


def multi_cue(
    embeddings: tuple[Floats, Floats],  # [n, C], [m, C]
    boxes_cxcywh: tuple[Floats, Floats],  # [n, 4], [m, 4]
    labels: tuple[Ints, Ints],  # [n], [m]
    scores: Floats,  # [n]
) -> Floats:  # [n, 1 + m], column 0 = "a new track"
    """Return MaskTrack R-CNN's matching score: log p + log s + 2 IoU + 10 [same class].

    p is the softmax over a new track and the existing ones. The new track has logit 0, IoU 0 and the same class.
    """
    products = embeddings[0] @ embeddings[1].T
    logits = np.concatenate([np.zeros((len(products), 1), np.float32), products], axis=1)
    shifted = logits - logits.max(axis=1, keepdims=True)
    log_p = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    cues = np.full_like(log_p, 10.0)
    cues[:, 1:] = 2 * box_iou(*map(cxcywh_to_xyxy, boxes_cxcywh))
    cues[:, 1:] += np.float32(10) * (labels[0][:, None] == labels[1][None, :])
    return np.asarray(log_p + np.log(scores)[:, None] + cues, np.float32)


def class_iou(
    boxes_cxcywh: tuple[Floats, Floats],  # [n, 4], [m, 4]
    labels: tuple[Ints, Ints],  # [n], [m]
) -> Floats:  # [n, m]
    """Return the IoU of every pair of boxes; 0 for different classes."""
    same = labels[0][:, None] == labels[1][None, :]
    return np.where(same, box_iou(*map(cxcywh_to_xyxy, boxes_cxcywh)), np.float32(0))


class MemoryBank:
    """The tracks that can still be continued: a few arrays with one row per track.

    Attributes:
        ids: [m] identities.
        last_frame: [m] frame in which each track was last seen.
        last_time: [m] time at which each track was last seen, in seconds.
        frames_seen: [m] number of frames in which each track was seen.
        labels: [m] class of each track when last seen.
        boxes: [m, 4] cxcywh box of each track when last seen.
        ARRAYS: type and axes of every array by the name of its attribute.
    """

    ARRAYS: ClassVar[Mapping[str, tuple[str, str]]] = {
        "ids": ("<i8", "m"),
        "last_frame": ("<i8", "m"),
        "last_time": ("<f8", "m"),
        "frames_seen": ("<i8", "m"),
        "labels": ("<i8", "m"),
        "boxes": ("<f4", "m4"),
        "_embeddings": ("<f4", "mTC"),
        "_scores": ("<f4", "mT"),
        "_momentum": ("<f4", "mC"),
    }

    def __init__(self, config: AssociationConfig, width: int) -> None:
        length = config.memory_length
        self._config = config
        self.ids: Ints = np.empty(0, np.int64)
        self.last_frame: Ints = np.empty(0, np.int64)
        self.last_time = np.empty(0, np.float64)
        self.frames_seen: Ints = np.empty(0, np.int64)
        self.labels: Ints = np.empty(0, np.int64)
        self.boxes: Floats = np.empty((0, 4), np.float32)
        # The newest embedding is in the last of T slots; slots before the first embedding are zero.
        self._embeddings: Floats = np.zeros((0, length, width), np.float32)
        self._scores: Floats = np.zeros((0, length), np.float32)
        self._momentum: Floats = np.zeros((0, width), np.float32)

    def __len__(self) -> int:
        return len(self.ids)

    def embeddings(self) -> Floats:
        """Return one embedding per track, [m, C], by the rule `AssociationConfig.temporal`."""
        if self._config.temporal == "momentum":
            return self._momentum
        weights = self._weights()
        weighted = np.matmul(weights[:, None, :], self._embeddings)[:, 0]
        return np.asarray(weighted / weights.sum(axis=1, keepdims=True), np.float32)

    def _weights(self) -> Floats:
        """Return the weight of every slot, [m, T]; zero for empty slots."""
        length = self._config.memory_length
        stored = np.minimum(self.frames_seen, length)[:, None]
        from_oldest = np.arange(length)[None] - (length - stored) + 1  # 1 = the oldest stored embedding
        if self._config.temporal == "paper":
            from_newest = stored - from_oldest + 1
            weights = self._config.tau + length / np.maximum(from_newest, 1)
        elif self._config.temporal == "score":
            weights = self._scores.astype(np.float64)
        else:
            weights = self._scores + from_oldest / stored
        return np.where(from_oldest >= 1, weights, 0).astype(np.float32)

    def update(self, rows: Ints, now: _Now, scores: Floats, labels: Ints, boxes: Floats, new: Floats) -> None:
        """Continue the tracks in `rows` [k] with their detections: scores [k], labels [k], boxes [k, 4], new [k, C].

        Only embeddings of matched frames are stored: an occluded one would change the track's appearance.
        """
        momentum = np.float32(self._config.momentum)
        self._momentum[rows] = (1 - momentum) * self._momentum[rows] + momentum * new
        self._embeddings[rows, :-1] = self._embeddings[rows, 1:]
        self._embeddings[rows, -1] = new
        self._scores[rows, :-1] = self._scores[rows, 1:]
        self._scores[rows, -1] = scores
        self.labels[rows] = labels
        self.boxes[rows] = boxes
        self.last_frame[rows], self.last_time[rows] = now
        self.frames_seen[rows] += 1

    def add(self, ids: Ints, now: _Now, scores: Floats, labels: Ints, boxes: Floats, new: Floats) -> None:
        """Start tracks with the identities `ids` [k] from the embeddings `new` [k, C]."""
        count, length = len(ids), self._config.memory_length
        memory = np.zeros((count, length, new.shape[1]), np.float32)
        memory[:, -1] = new
        memory_scores = np.zeros((count, length), np.float32)
        memory_scores[:, -1] = scores
        frame, time_s = (np.full(count, value) for value in now)
        rows = ids, frame, time_s, np.ones(count, np.int64), labels, boxes, memory, memory_scores, new
        for name, added in zip(self.ARRAYS, rows, strict=True):
            setattr(self, name, np.concatenate([getattr(self, name), added]))

    def forget(self, now: _Now) -> int:
        """Remove the tracks that are too old, and those beyond `max_tracks`; return the number of the latter.

        A track is too old if it has not been seen for `max_age` frames and `max_age_s` seconds. Its id is never used
        again.
        """
        frame, time_s = now
        keep = frame - self.last_frame < self._config.max_age
        keep |= time_s - self.last_time < (self._config.max_age_s or 0)
        excess = max(0, int(keep.sum()) - self._config.max_tracks)
        if excess:
            oldest = np.argsort(np.where(keep, self.last_frame, frame + 1), kind="stable")
            keep[oldest[:excess]] = False
        if not keep.all():
            for name in self.ARRAYS:
                setattr(self, name, getattr(self, name)[keep])
        return excess


@dataclass(frozen=True, eq=False)
class TrackerState:
    """The counters and tracks of a tracker after a frame.

    Attributes:
        frame: number of the frame, from 0; -1 before the first.
        time_s: sum of the seconds between frames.
        last_time_s: time of the frame; None before the first.
        next_id: identity of the next new track.
        evicted: number of tracks deleted because of `max_tracks`.
        tracks: arrays of the memory bank, `MemoryBank.ARRAYS`; empty without a bank.
    """

    frame: int
    time_s: float
    last_time_s: float | None
    next_id: int
    evicted: int
    tracks: Mapping[str, Any]


class Tracker:
    """A tracker that assigns an identity to every detection of a stream.

    Attributes:
        config: thresholds and association rules.
        bank: memory bank; None before the first detection.
        next_id: identity of the next new track.
        evicted: number of tracks deleted because of `max_tracks`.

    Example:
        >>> tracker = Tracker(AssociationConfig())
        >>> one = np.ones((1, 4), np.float32)
        >>> tracker.update(np.float32([0.9]), np.int64([3]), one, one)
        array([0])
    """

    def __init__(self, config: AssociationConfig) -> None:
        self.config = config
        self.reset()

    def reset(self) -> None:
        """Remove all tracks and number identities from 0 again, as at the start of a video."""
        self.forget()
        self.evicted = 0
        self.next_id = 0
        self._frame = -1
        self._time_s = 0.0  # grows by the seconds between frames
        self._last_time_s: float | None = None  # of the last frame, as its source tells

    def forget(self) -> None:
        """Remove all tracks and go on numbering identities and frames."""
        self.bank: MemoryBank | None = None

    def snapshot(self) -> TrackerState:
        """Return a copy of the counters and tracks."""
        bank = self.bank
        tracks = {} if bank is None else {name: getattr(bank, name).copy() for name in bank.ARRAYS}
        return TrackerState(self._frame, self._time_s, self._last_time_s, self.next_id, self.evicted, tracks)

    def restore(self, state: TrackerState) -> None:
        """Continue from a snapshot of a tracker with the same configuration."""
        self._frame, self._time_s, self._last_time_s = state.frame, state.time_s, state.last_time_s
        self.next_id, self.evicted = state.next_id, state.evicted
        self.bank = None
        if state.tracks:
            self.bank = MemoryBank(self.config, width=0)
            for name, array in state.tracks.items():
                setattr(self.bank, name, array.copy())  # the bank changes its arrays

    @one_blas_thread()
    def update(
        self,
        scores: Floats,  # [n]
        labels: Ints,  # [n]
        boxes: Floats,  # [n, 4] cxcywh
        embeddings: Floats,  # [n, C]
        *,
        time_s: float | None = None,
    ) -> Ints:  # [n]
        """Return the identities of the next frame's detections, given best first, and store the detections.

        A detection that neither continues nor starts a track has the identity NO_TRACK. A frame without detections
        advances the time, but does not change the bank. `time_s` is the time of the frame in seconds, from any start;
        None: the time of the call. A time before that of the last frame does not turn back the age of tracks.
        """
        ids = self.associate(scores, labels, boxes, embeddings)
        self.commit(ids, scores, labels, boxes, embeddings, time_s=time_s)
        return ids

    def associate(self, scores: Floats, labels: Ints, boxes: Floats, embeddings: Floats) -> Ints:
        """Return the identities that `update` would return, without storing anything."""
        bank = self.bank
        ids = np.full(len(scores), NO_TRACK, np.int64)
        threshold = self.config.init_score
        if len(scores) and bank is not None and len(bank):
            rows = self._match(bank, scores, labels, boxes, embeddings)
            ids = np.where(rows >= 0, bank.ids[rows], ids)
            threshold = self.config.new_track_score
        starts = (ids == NO_TRACK) & (scores > np.float32(threshold))
        ids[starts] = self.next_id + np.arange(starts.sum())
        return ids

    def commit(
        self,
        ids: Ints,
        scores: Floats,
        labels: Ints,
        boxes: Floats,
        embeddings: Floats,
        *,
        time_s: float | None = None,
    ) -> None:
        """Store the next frame's detections under the given identities [n]; an unknown identity starts a track."""
        self._frame += 1
        last, self._last_time_s = self._last_time_s, time.monotonic() if time_s is None else time_s
        self._time_s += 0.0 if last is None else max(0.0, self._last_time_s - last)
        if not len(ids):
            return
        if self.bank is None:
            self.bank = MemoryBank(self.config, embeddings.shape[1])
        bank, now = self.bank, (self._frame, self._time_s)
        row_of = {track: row for row, track in enumerate(bank.ids.tolist())}
        rows = np.array([row_of.get(track, -1) for track in ids.tolist()], np.int64)
        continues, starts = rows >= 0, (rows < 0) & (ids != NO_TRACK)
        for store, targets, which in ((bank.update, rows, continues), (bank.add, ids, starts)):
            store(targets[which], now, scores[which], labels[which], boxes[which], embeddings[which])
        self.next_id = max(self.next_id, int(ids.max()) + 1)
        self.evicted += bank.forget(now)

    def _match(
        self, bank: MemoryBank, scores: Floats, labels: Ints, boxes: Floats, embeddings: Floats
    ) -> Ints:
        """Return the row of the bank that each detection continues, [n]; -1 for none."""
        tracks = bank.embeddings()
        if self.config.matching == "multi_cue":
            cues = multi_cue((embeddings, tracks), (boxes, bank.boxes), (labels, bank.labels), scores)
            return _assign_best(cues)
        if self.config.matching == "iou":
            return self._assign_in_order(class_iou((boxes, bank.boxes), (labels, bank.labels)), None)
        seen = bank.frames_seen.astype(np.float32) if self.config.frame_weight else None
        return self._assign_in_order(bi_softmax(embeddings, tracks), seen)

    def _assign_in_order(self, similarity: Floats, frames_seen: Floats | None) -> Ints:
        """Assign to each detection, best first, the best track that is still free (docs/idol.md §4, step 4).

        Rows with several candidates are weighted by `frames_seen`, unless that is None.
        """
        threshold = np.float32(self.config.match_score)
        over = similarity > threshold
        counts, firsts = over.sum(axis=1).tolist(), over.argmax(axis=1).tolist()
        rows = [-1] * len(counts)
        assigned: dict[int, None] = {}
        # Rows never gain candidates, and most have exactly one: only rows with several need the similarities.
        for i, count in enumerate(counts):
            best = firsts[i] if count == 1 else -1
            if count > 1:
                row = similarity[i].copy()
                row[list(assigned)] = 0
                best = _best_track(row, frames_seen, threshold)
            if best >= 0 and best not in assigned:
                rows[i] = best
                assigned[best] = None
        return np.array(rows, np.int64)


def _best_track(row: Floats, frames_seen: Floats | None, threshold: np.float32) -> int:
    """Return the track with the best similarity [m] above the threshold, weighted if several are; -1 for none."""
    candidates = row > threshold
    if frames_seen is not None and candidates.sum() > 1:
        row = row * np.where(candidates, frames_seen, frames_seen[candidates].mean())
    best = int(row.argmax())
    return best if row[best] > threshold else -1


def _assign_best(cues: Floats) -> Ints:
    """Return the best track of each detection, or -1 if another detection matches it better (MaskTrack R-CNN)."""
    best = cues.argmax(axis=1) - 1
    candidates = np.flatnonzero(best >= 0)
    order = candidates[np.argsort(-cues[candidates, best[candidates] + 1], kind="stable")]
    _, firsts = np.unique(best[order], return_index=True)
    rows = np.full(len(cues), -1, np.int64)
    rows[order[firsts]] = best[order[firsts]]
    return rows
