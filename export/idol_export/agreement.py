"""Do two runs of the same video make the same decisions? Judged one decision at a time.

Every decision (which queries are candidates, which survive mask NMS, which identity each gets) is made again
from one run's network output but from the *other run's* earlier decisions, so that one coin-flip cannot
spoil all that follows. A difference is a near-tie when the quantity it hangs on lies within a small distance
of its threshold, and is counted apart; any other difference is an error.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from idol_runtime.association import NO_TRACK, Tracker, bi_softmax
from idol_runtime.boxes import box_iou, cxcywh_to_xyxy
from idol_runtime.config import AssociationConfig
from idol_runtime.detection import (
    Detections,
    NetworkOutput,
    decode_queries,
    select_queries,
    sigmoid,
    suppress_masks,
)
from idol_runtime.masks import mask_iou

__all__ = ["Agreement", "Decisions", "Judge", "NEAR"]

# How far from a threshold a float32 network may put a quantity in one run and not in another.
NEAR = 1e-4

Ints = NDArray[np.int64]
Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Decisions:
    """What was decided on one frame.

    Attributes:
        candidates: queries after the score threshold and box NMS, best first.
        query: those that survived mask NMS, best first.
        ids: [n] their identities, NO_TRACK for none.
        labels: [n] their classes.
    """

    candidates: Ints
    query: Ints
    ids: Ints
    labels: Ints


@dataclass
class Agreement:
    """How often two runs agreed.

    Attributes:
        compared: decisions that were compared.
        near_ties: those that differ, each within `NEAR` of its threshold.
        errors: those that differ otherwise, one sentence each.
    """

    compared: int = 0
    near_ties: int = 0
    errors: list[str] = field(default_factory=list)

    def judge(self, what: str, of: Sequence[int], differing: Sequence[int], near: Sequence[int]) -> None:
        """Count the decisions on the queries `of`, some of which differ, some of those near a threshold."""
        self.compared += len(of)
        self.near_ties += len(set(differing) & set(near))
        wrong = sorted(set(differing) - set(near))
        if wrong:
            self.errors.append(f"{what}: queries {wrong[:5]}{' …' if len(wrong) > 5 else ''}")


class Judge:
    """Repeats another run's decisions on our own network output, frame by frame."""

    def __init__(self, config: AssociationConfig) -> None:
        self.config = config
        self.selection = Agreement()
        self.suppression = Agreement()
        self.identity = Agreement()
        self.labels = Agreement()
        self._tracker = Tracker(config)
        self._frame = -1

    @property
    def parts(self) -> dict[str, Agreement]:
        """The agreements by name, in the order of the decisions."""
        return {
            "selection": self.selection,
            "mask NMS": self.suppression,
            "labels": self.labels,
            "track ids": self.identity,
        }

    def frame(self, output: NetworkOutput, other: Decisions) -> Detections:
        """Judge one frame; returns our view of the other run's detections, best first as it had them."""
        self._frame += 1
        class_scores = sigmoid(output.logits)
        self._judge_selection(class_scores, output.boxes, other.candidates)
        masks = decode_queries(output, other.candidates)
        self._judge_suppression(class_scores.max(axis=1), masks, other)
        position = {query: i for i, query in enumerate(other.candidates.tolist())}
        kept = [position[query] for query in other.query.tolist()]
        scores = class_scores[other.query]
        found = Detections(
            query=other.query,
            labels=other.labels,
            scores=scores.max(axis=1),
            class_scores=scores,
            boxes=output.boxes[other.query],
            embeddings=output.embeddings[other.query],
            mask_logits=masks[kept],
            candidates=other.candidates,
        )
        self._judge_labels(found)
        self._judge_identity(found, other.ids)
        return found

    def _judge_selection(self, class_scores: Floats, boxes: Floats, expected: Ints) -> None:
        ours = select_queries(class_scores, boxes, self.config)
        scores = class_scores.max(axis=1)
        pool = np.flatnonzero(scores > self.config.select_score - NEAR)
        if not len(pool):
            pool = np.argsort(-scores)[:2]
        corners = cxcywh_to_xyxy(boxes[pool])
        labels = class_scores[pool].argmax(axis=1)
        iou = box_iou(corners, corners) * (labels[:, None] == labels[None, :])
        differing = set(ours.tolist()) ^ set(expected.tolist())
        near = set(pool[np.abs(scores[pool] - self.config.select_score) <= NEAR].tolist())
        near |= _near_suppression(
            pool, scores[pool], iou, np.zeros_like(iou), self.config.box_nms_iou, differing
        )
        if len(ours) == len(expected) == 1 and scores.max() <= self.config.select_score + NEAR:
            # No query is above the threshold: the best one stands in, whichever of two equals it is.
            near |= {int(q) for q in (ours[0], expected[0]) if scores.max() - scores[q] <= NEAR}
        self.selection.judge(f"frame {self._frame}", expected.tolist(), sorted(differing), sorted(near))

    def _judge_suppression(self, scores: Floats, masks: Floats, other: Decisions) -> None:
        ours = other.candidates[suppress_masks(masks, self.config)]
        differing = set(ours.tolist()) ^ set(other.query.tolist())
        near: set[int] = set()
        if differing:
            flat = masks.reshape(len(masks), -1)
            # A pixel whose logit is next to nothing may be set in one run and not in the other.
            open_pixels = (np.abs(flat) <= NEAR * np.abs(flat).std()).sum(axis=1)
            union = np.maximum((flat > 0).sum(axis=1), 1)
            slack = (open_pixels[:, None] + open_pixels[None]) / np.maximum(union[:, None], union[None])
            near = _near_suppression(
                other.candidates,
                scores[other.candidates],
                mask_iou(flat > 0),
                slack.astype(np.float32),
                self.config.mask_nms_iou,
                differing,
            )
        self.suppression.judge(
            f"frame {self._frame}", other.candidates.tolist(), sorted(differing), sorted(near)
        )

    def _judge_labels(self, found: Detections) -> None:
        ours = found.class_scores.argmax(axis=1)
        margin = found.class_scores.max(axis=1) - np.take_along_axis(
            found.class_scores, found.labels[:, None], axis=1
        ).squeeze(1)
        differing = found.query[ours != found.labels]
        self.labels.judge(
            f"frame {self._frame}",
            found.query.tolist(),
            differing.tolist(),
            found.query[margin <= NEAR].tolist(),
        )

    def _judge_identity(self, found: Detections, expected: Ints) -> None:
        features = (found.scores, found.labels, found.boxes, found.embeddings)
        ours = self._tracker.associate(*features)
        differing = np.flatnonzero(ours != expected)
        near: set[int] = set()
        if len(differing):
            near = self._near_identities(found, ours, expected)
        self.identity.judge(
            f"frame {self._frame}",
            found.query.tolist(),
            found.query[differing].tolist(),
            [int(found.query[i]) for i in near],
        )
        self._tracker.commit(expected, *features)

    def _near_identities(self, found: Detections, ours: Ints, expected: Ints) -> set[int]:
        """Detections whose identity hangs on a hair, and those that such a one has displaced."""
        bank = self._tracker.bank
        thresholds = {self.config.init_score, self.config.new_track_score}
        close = np.zeros(len(ours), np.bool_)
        for threshold in thresholds:
            close |= np.abs(found.scores - threshold) <= NEAR
        if bank is not None and len(bank):
            similarity = bi_softmax(found.embeddings, bank.embeddings())
            close |= (np.abs(similarity - self.config.match_score) <= NEAR).any(axis=1)
            ranked = np.sort(similarity, axis=1)[:, ::-1]
            if ranked.shape[1] > 1:
                close |= ranked[:, 0] - ranked[:, 1] <= NEAR
        # Equal scores may be taken in either order, and the order decides who chooses first.
        gaps = np.abs(np.diff(found.scores)) <= NEAR
        close[:-1] |= gaps
        close[1:] |= gaps
        near = set(np.flatnonzero(close).tolist())
        touched = {int(i) for k in near for i in (ours[k], expected[k])} - {NO_TRACK}
        known = set(bank.ids.tolist()) if bank is not None else set()
        renumbered = any(ours[k] not in known or expected[k] not in known for k in near)
        for i in np.flatnonzero(ours != expected):
            pair = {int(ours[i]), int(expected[i])}
            # A birth more or less shifts the numbers of the births after it.
            if pair & touched or (renumbered and not pair & known):
                near.add(int(i))
        return near


def _near_suppression(
    query: Ints, scores: Floats, iou: Floats, slack: Floats, threshold: float, differing: set[int]
) -> set[int]:
    """Queries of `differing` whose suppression hangs on a near-tie, at first or second hand."""
    overlap = iou > threshold - NEAR - slack
    np.fill_diagonal(overlap, val=False)
    at_threshold = overlap & (np.abs(iou - threshold) <= NEAR + slack)
    swapped = overlap & (np.abs(scores[:, None] - scores[None]) <= NEAR)
    near = (at_threshold | swapped).any(axis=1)
    differs = np.isin(query, list(differing))
    for _ in range(len(query)):
        spread = near | (differs & (overlap & (near & differs)[None]).any(axis=1))
        if (spread == near).all():
            break
        near = spread
    return set(query[near].tolist())
