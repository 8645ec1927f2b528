"""From the detections of each frame to tracks: IDOL's memory bank and temporally weighted bi-softmax.

One tracker serves PyTorch evaluation and every device (docs/idol.md §4, steps 4 to 7; paper, section 3.3).
Letters: n detections of a frame, best first; m tracks in the bank, oldest first; T embeddings kept per
track; C embedding width. The bank is a handful of arrays, so that its cost depends on the tracks that are
alive and on nothing that came before.
"""

import numpy as np
from numpy.typing import NDArray

from idol_runtime.blas import one_blas_thread
from idol_runtime.config import AssociationConfig
from idol_runtime.tracking.boxes import box_iou, cxcywh_to_xyxy

__all__ = ["NO_TRACK", "MemoryBank", "Tracker", "bi_softmax", "class_iou", "multi_cue", "softmax"]

NO_TRACK = -1

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]


def softmax(x: Floats, axis: int) -> Floats:
    """Softmax along one axis, in the type of `x`."""
    out: Floats = x - x.max(axis=axis, keepdims=True)
    np.exp(out, out=out)
    out /= out.sum(axis=axis, keepdims=True)
    return out


def bi_softmax(
    detections: Floats,  # [n, C]
    tracks: Floats,  # [m, C]
) -> Floats:  # [n, m]
    """Mean of the softmax over tracks and the softmax over detections of the dot products (paper, eq. 7)."""
    products = detections @ tracks.T
    both = softmax(products, axis=1)
    both += softmax(products, axis=0)
    both /= np.float32(2)
    return both


def multi_cue(
    embeddings: tuple[Floats, Floats],  # [n, C], [m, C]
    boxes_cxcywh: tuple[Floats, Floats],  # [n, 4], [m, 4]
    labels: tuple[Ints, Ints],  # [n], [m]
    scores: Floats,  # [n]
) -> Floats:  # [n, 1 + m], column 0 = "a new track"
    """MaskTrack R-CNN's score: log p + log s + 2 IoU + 10 [same class].

    p is the softmax over the tracks and a new track, whose logit is 0, IoU 0 and class the same.
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
    """IoU, 0 between different classes."""
    same = labels[0][:, None] == labels[1][None, :]
    return np.where(same, box_iou(*map(cxcywh_to_xyxy, boxes_cxcywh)), np.float32(0))


class MemoryBank:
    """The tracks that may still be continued.

    Attributes:
        ids: [m] identity.
        last_frame: [m] frame in which each was last seen.
        frames_seen: [m] how many frames it was seen in.
        labels: [m] class when last seen.
        boxes: [m, 4] cxcywh when last seen.
    """

    def __init__(self, config: AssociationConfig, width: int) -> None:
        length = config.memory_length
        self._config = config
        self.ids: Ints = np.empty(0, np.int64)
        self.last_frame: Ints = np.empty(0, np.int64)
        self.frames_seen: Ints = np.empty(0, np.int64)
        self.labels: Ints = np.empty(0, np.int64)
        self.boxes: Floats = np.empty((0, 4), np.float32)
        # The newest embedding is in the last slot; slots before the first embedding are zero.
        self._embeddings: Floats = np.zeros((0, length, width), np.float32)
        self._scores: Floats = np.zeros((0, length), np.float32)
        self._momentum: Floats = np.zeros((0, width), np.float32)

    def __len__(self) -> int:
        return len(self.ids)

    def embeddings(self) -> Floats:
        """One embedding per track, [m, C], as `AssociationConfig.temporal` says."""
        if self._config.temporal == "momentum":
            return self._momentum
        weights = self._weights()
        weighted = np.matmul(weights[:, None, :], self._embeddings)[:, 0]
        return np.asarray(weighted / weights.sum(axis=1, keepdims=True), np.float32)

    def _weights(self) -> Floats:
        """Weight of every slot, [m, T], zero where a track is younger than its memory."""
        length = self._config.memory_length
        held = np.minimum(self.frames_seen, length)[:, None]
        from_oldest = np.arange(length)[None] - (length - held) + 1  # 1 = the oldest held
        if self._config.temporal == "paper":
            from_newest = held - from_oldest + 1
            weights = self._config.tau + length / np.maximum(from_newest, 1)
        elif self._config.temporal == "score":
            weights = self._scores.astype(np.float64)
        else:
            weights = self._scores + from_oldest / held
        return np.where(from_oldest >= 1, weights, 0).astype(np.float32)

    def update(
        self, rows: Ints, frame: int, scores: Floats, labels: Ints, boxes: Floats, new: Floats
    ) -> None:
        """Continue the tracks in `rows` [k] with what was seen of them: scores [k], …, embeddings [k, C].

        Only matched frames enter the memory: an occluded embedding would drift the track.
        """
        momentum = np.float32(self._config.momentum)
        self._momentum[rows] = (1 - momentum) * self._momentum[rows] + momentum * new
        self._embeddings[rows, :-1] = self._embeddings[rows, 1:]
        self._embeddings[rows, -1] = new
        self._scores[rows, :-1] = self._scores[rows, 1:]
        self._scores[rows, -1] = scores
        self.labels[rows] = labels
        self.boxes[rows] = boxes
        self.last_frame[rows] = frame
        self.frames_seen[rows] += 1

    def add(self, ids: Ints, frame: int, scores: Floats, labels: Ints, boxes: Floats, new: Floats) -> None:
        """Start tracks with these ids [k] from embeddings [k, C]."""
        count, length = len(ids), self._config.memory_length
        memory = np.zeros((count, length, new.shape[1]), np.float32)
        memory[:, -1] = new
        held_scores = np.zeros((count, length), np.float32)
        held_scores[:, -1] = scores
        self.ids = np.concatenate([self.ids, ids])
        self.last_frame = np.concatenate([self.last_frame, np.full(count, frame)])
        self.frames_seen = np.concatenate([self.frames_seen, np.ones(count, np.int64)])
        self.labels = np.concatenate([self.labels, labels])
        self.boxes = np.concatenate([self.boxes, boxes])
        self._embeddings = np.concatenate([self._embeddings, memory])
        self._scores = np.concatenate([self._scores, held_scores])
        self._momentum = np.concatenate([self._momentum, new])

    def forget(self, frame: int) -> None:
        """Drop the tracks that have not been seen for `max_age` frames; their ids never return."""
        alive = frame - self.last_frame < self._config.max_age
        if alive.all():
            return
        self.ids, self.last_frame, self.frames_seen = (
            self.ids[alive],
            self.last_frame[alive],
            self.frames_seen[alive],
        )
        self.labels, self.boxes = self.labels[alive], self.boxes[alive]
        self._embeddings, self._scores = self._embeddings[alive], self._scores[alive]
        self._momentum = self._momentum[alive]


class Tracker:
    """Gives every detection of a stream its identity.

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
        """Forget every track and start numbering at 0 again, as at the start of a video."""
        self._bank: MemoryBank | None = None
        self._next_id = 0
        self._frame = -1

    @property
    def bank(self) -> MemoryBank | None:
        """The memory bank; None before the first detection."""
        return self._bank

    @one_blas_thread
    def update(
        self,
        scores: Floats,  # [n]
        labels: Ints,  # [n]
        boxes: Floats,  # [n, 4] cxcywh
        embeddings: Floats,  # [n, C]
    ) -> Ints:  # [n]
        """Identities of the next frame's detections, given best first, and remember them.

        NO_TRACK for those that neither continue nor start a track. A frame without detections counts as
        time, but leaves the bank as it is.
        """
        ids = self.associate(scores, labels, boxes, embeddings)
        self.commit(ids, scores, labels, boxes, embeddings)
        return ids

    def associate(self, scores: Floats, labels: Ints, boxes: Floats, embeddings: Floats) -> Ints:
        """The identities that `update` would give, without remembering anything."""
        bank = self._bank
        ids = np.full(len(scores), NO_TRACK, np.int64)
        threshold = self.config.init_score
        if len(scores) and bank is not None and len(bank):
            rows = self._match(bank, scores, labels, boxes, embeddings)
            ids = np.where(rows >= 0, bank.ids[rows], ids)
            threshold = self.config.new_track_score
        born = (ids == NO_TRACK) & (scores > np.float32(threshold))
        ids[born] = self._next_id + np.arange(born.sum())
        return ids

    def commit(self, ids: Ints, scores: Floats, labels: Ints, boxes: Floats, embeddings: Floats) -> None:
        """Remember the next frame's detections under these identities [n]; an unknown one starts a track."""
        self._frame += 1
        if not len(ids):
            return
        if self._bank is None:
            self._bank = MemoryBank(self.config, embeddings.shape[1])
        bank = self._bank
        row_of = {track: row for row, track in enumerate(bank.ids.tolist())}
        rows = np.array([row_of.get(track, -1) for track in ids.tolist()], np.int64)
        continued, born = rows >= 0, (rows < 0) & (ids != NO_TRACK)
        for change, target, chosen in ((bank.update, rows, continued), (bank.add, ids, born)):
            change(
                target[chosen], self._frame, scores[chosen], labels[chosen], boxes[chosen], embeddings[chosen]
            )
        self._next_id = max(self._next_id, int(ids.max()) + 1)
        bank.forget(self._frame)

    def _match(
        self, bank: MemoryBank, scores: Floats, labels: Ints, boxes: Floats, embeddings: Floats
    ) -> Ints:
        """Row in the bank that each detection continues, [n]; -1: none."""
        tracks = bank.embeddings()
        if self.config.matching == "multi_cue":
            cues = multi_cue((embeddings, tracks), (boxes, bank.boxes), (labels, bank.labels), scores)
            return _assign_best(cues)
        if self.config.matching == "iou":
            return self._assign_in_order(class_iou((boxes, bank.boxes), (labels, bank.labels)), None)
        seen = bank.frames_seen.astype(np.float32) if self.config.frame_weight else None
        return self._assign_in_order(bi_softmax(embeddings, tracks), seen)

    def _assign_in_order(self, similarity: Floats, frames_seen: Floats | None) -> Ints:
        """Best detection first: each takes its best track, which the others then lose (docs/idol.md §4, step 4).

        Rows with several candidates are weighed by `frames_seen` if that is given.
        """
        threshold = np.float32(self.config.match_score)
        over = similarity > threshold
        counts, firsts = over.sum(axis=1).tolist(), over.argmax(axis=1).tolist()
        rows = [-1] * len(counts)
        taken: dict[int, None] = {}
        # A row without a candidate now never has one, and most have one: only others need a look at the numbers.
        for i, count in enumerate(counts):
            best = firsts[i] if count == 1 else -1
            if count > 1:
                row = similarity[i].copy()
                row[list(taken)] = 0
                best = _best_track(row, frames_seen, threshold)
            if best >= 0 and best not in taken:
                rows[i] = best
                taken[best] = None
        return np.array(rows, np.int64)


def _best_track(row: Floats, frames_seen: Floats | None, threshold: np.float32) -> int:
    """The track with the best similarity [m] above the threshold, weighed if several are; -1: none."""
    candidates = row > threshold
    if frames_seen is not None and candidates.sum() > 1:
        row = row * np.where(candidates, frames_seen, frames_seen[candidates].mean())
    best = int(row.argmax())
    return best if row[best] > threshold else -1


def _assign_best(cues: Floats) -> Ints:
    """Each detection asks for its best track; each track takes the best that asks (MaskTrack R-CNN)."""
    rows = cues.argmax(axis=1) - 1
    asked = np.flatnonzero(rows >= 0)
    order = asked[np.argsort(-cues[asked, rows[asked] + 1], kind="stable")]
    _, winners = np.unique(rows[order], return_index=True)
    chosen = np.full(len(cues), -1, np.int64)
    chosen[order[winners]] = rows[order[winners]]
    return chosen
