"""Do two runs of the same video make the same decisions? Judged one decision at a time.

Every decision (which queries are candidates, which survive mask NMS, which identity each gets) is made again
from one run's network output but from the *other run's* earlier decisions, so that one coin-flip cannot
spoil all that follows. Where the runs differ, each of the two outcomes must follow from quantities that lie
within a small distance of our own: then it is a near-tie, and counted apart. Any other difference is an error.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from idol_export.verify.near_ties import Overlaps, impossible_identities, impossible_survivors
from idol_runtime.config import AssociationConfig
from idol_runtime.tracking.association import Tracker
from idol_runtime.tracking.boxes import box_iou, cxcywh_to_xyxy
from idol_runtime.tracking.detection import (
    Detections,
    NetworkOutput,
    decode_queries,
    select_queries,
    sigmoid,
    suppress_masks,
)
from idol_runtime.tracking.masks import mask_iou

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
        errors: those that differ otherwise, one sentence for each frame.
    """

    compared: int = 0
    near_ties: int = 0
    errors: list[str] = field(default_factory=list)

    def judge(self, what: str, compared: int, differing: Iterable[int], wrong: Iterable[int]) -> None:
        """Count the decisions of one frame, of which some queries' differ, some of those without excuse."""
        self.compared += compared
        self.near_ties += len(set(differing) - set(wrong))
        queries = sorted(set(wrong))
        if queries:
            self.errors.append(f"{what}: queries {queries[:5]}{' …' if len(queries) > 5 else ''}")


class Judge:
    """Repeats another run's decisions on our own network output, frame by frame."""

    def __init__(self, config: AssociationConfig) -> None:
        self.config = config
        self.selection = Agreement()
        self.suppression = Agreement()
        self.identity = Agreement()
        self.labels = Agreement()
        self._tracker = Tracker(config)
        self._next_id = 0
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
        self._judge_suppression(masks, other)
        scores = class_scores[other.query]
        found = Detections(
            query=other.query,
            labels=other.labels,
            scores=scores.max(axis=1),
            class_scores=scores,
            boxes=output.boxes[other.query],
            embeddings=output.embeddings[other.query],
            mask_logits=_masks_of(other, masks, output),
            candidates=other.candidates,
        )
        self._judge_labels(found)
        self._judge_identity(found, other.ids)
        return found

    def _judge_selection(self, class_scores: Floats, boxes: Floats, expected: Ints) -> None:
        ours, theirs = select_queries(class_scores, boxes, self.config), expected
        differing = set(ours.tolist()) ^ set(theirs.tolist())
        # Each looked-at query must come after all that are clearly better; mask NMS and tracker rely on it.
        scores = class_scores.max(axis=1)[theirs]
        wrong = set(theirs[scores > np.minimum.accumulate(scores) + NEAR].tolist()) if len(theirs) else set()
        if differing:
            for outcome in (ours, theirs):
                wrong |= _impossible_candidates(class_scores, boxes, outcome, self.config)
        self.selection.judge(f"frame {self._frame}", len(theirs), differing, wrong)

    def _judge_suppression(self, masks: Floats, other: Decisions) -> None:
        if not len(masks):
            return
        keep = suppress_masks(masks, self.config)
        kept = np.isin(other.candidates, other.query)
        # Those that survive keep their order.
        in_order = other.candidates[kept].tolist()
        wrong = set(other.query.tolist()) - set(in_order)
        if not wrong and in_order != other.query.tolist():
            wrong |= set(in_order)
        if (keep != kept).any():
            overlaps = _mask_overlaps(masks, self.config.mask_nms_iou)
            for outcome in (keep, kept):
                wrong |= set(other.candidates[impossible_survivors(overlaps, outcome)].tolist())
        differing = other.candidates[keep != kept].tolist()
        self.suppression.judge(f"frame {self._frame}", len(other.candidates), differing, wrong)

    def _judge_labels(self, found: Detections) -> None:
        ours = found.class_scores.argmax(axis=1)
        classes = found.class_scores.shape[1]
        given = found.class_scores[np.arange(len(ours)), np.clip(found.labels, 0, classes - 1)]
        known = (found.labels >= 0) & (found.labels < classes)
        wrong = ~known | (found.scores - given > NEAR)
        differing = found.query[ours != found.labels].tolist()
        self.labels.judge(f"frame {self._frame}", len(ours), differing, found.query[wrong].tolist())

    def _judge_identity(self, found: Detections, expected: Ints) -> None:
        features = (found.scores, found.labels, found.boxes, found.embeddings)
        ours = self._tracker.associate(*features)
        wrong = np.zeros(len(ours), np.bool_)
        if (ours != expected).any():
            for ids in (ours, expected):
                wrong |= impossible_identities(
                    found, self._tracker.bank, self._next_id, ids, self.config, NEAR
                )
        differing = found.query[ours != expected].tolist()
        self.identity.judge(f"frame {self._frame}", len(ours), differing, found.query[wrong].tolist())
        self._tracker.commit(expected, *features)
        self._next_id = max(self._next_id, *(expected + 1).tolist(), 0)


def _masks_of(other: Decisions, masks: Floats, output: NetworkOutput) -> Floats:
    position = {query: i for i, query in enumerate(other.candidates.tolist())}
    queries = other.query.tolist()
    if all(query in position for query in queries):
        return masks[[position[query] for query in queries]]
    return decode_queries(output, other.query)


def _impossible_candidates(
    class_scores: Floats, boxes: Floats, chosen: Ints, config: AssociationConfig
) -> set[int]:
    """Queries whose being chosen, or not, follows from no scores and boxes within `NEAR` of these."""
    scores, limit = class_scores.max(axis=1), config.select_score
    best = float(scores.max())
    if best <= limit + NEAR and len(chosen) == 1 and scores[chosen[0]] >= best - NEAR:
        return set()  # No query need be above the threshold, and then the best one stands in.
    pool = np.flatnonzero(scores > limit - NEAR)
    if best <= limit - NEAR or not len(chosen):
        return {*chosen.tolist(), *pool.tolist(), int(scores.argmax())}
    survives = np.isin(pool, chosen)
    wrong = impossible_survivors(_box_overlaps(class_scores[pool], boxes[pool], config), survives)
    return set(pool[wrong].tolist()) | (set(chosen.tolist()) - set(pool.tolist()))


def _box_overlaps(class_scores: Floats, boxes: Floats, config: AssociationConfig) -> Overlaps:
    scores, corners = class_scores.max(axis=1), cxcywh_to_xyxy(boxes)
    iou = box_iou(corners, corners)
    # Class-wise NMS moves boxes apart by class, and a moved corner is rounded to a multiple of `rounding`.
    shift = class_scores.argmax(axis=1) * (np.abs(corners).max() + 1)
    rounding = np.spacing(shift.astype(np.float32)) * (1 / np.maximum(boxes[:, 2:], 1e-6)).sum(axis=1)
    slack = NEAR + 2 * (rounding[:, None] + rounding[None])
    possible = class_scores >= scores[:, None] - NEAR
    same = (possible[:, None] & possible[None]).any(axis=2)
    certain = possible.sum(axis=1) == 1
    different = ~np.eye(len(scores), dtype=np.bool_)
    return Overlaps(
        may=different & same & (iou > config.box_nms_iou - slack),
        must=different & same & certain[:, None] & certain[None] & (iou > config.box_nms_iou + slack),
        before=scores[:, None] >= scores[None] - NEAR,
        required=scores > config.select_score + NEAR,
    )


def _mask_overlaps(masks: Floats, threshold: float) -> Overlaps:
    """Of masks that are given in the order in which they suppress."""
    flat = masks.reshape(len(masks), -1)
    iou, area = mask_iou(flat > 0), (flat > 0).sum(axis=1)
    # A pixel whose logit is next to nothing may be set in one run and not in the other.
    open_pixels = (np.abs(flat) <= NEAR * flat.std(axis=1, keepdims=True)).sum(axis=1)
    union = (area[:, None] + area[None]) / (1 + iou)
    slack = NEAR + (open_pixels[:, None] + open_pixels[None]) / np.maximum(union, 1)
    different = ~np.eye(len(masks), dtype=np.bool_)
    position = np.arange(len(masks))
    return Overlaps(
        may=different & (iou > threshold - slack),
        must=different & (iou > threshold + slack),
        before=position[:, None] < position[None],
        required=np.ones(len(masks), np.bool_),
    )
