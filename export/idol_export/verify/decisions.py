"""Comparison of two runs of the same video, one decision at a time.

Each decision (candidate selection, mask NMS, labels, identities) is repeated with one run's network output and the
*other run's* earlier decisions. One differing decision therefore cannot make all later ones differ. A difference is a
near tie, counted separately, if both outcomes follow from quantities within `NEAR` of the first run's quantities. Any
other difference is an error.
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

__all__ = ["Agreement", "DecisionComparison", "Decisions", "NEAR"]

# Largest distance by which float32 rounding may move a quantity across a threshold.
NEAR = 1e-4

Ints = NDArray[np.int64]
Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Decisions:
    """The decisions of one run on one frame.

    Attributes:
        candidates: [m] queries after the score threshold and box NMS, best first.
        query: [n] queries after mask NMS, best first.
        ids: [n] identity of each entry of `query`; NO_TRACK for none.
        labels: [n] class of each entry of `query`.
    """

    candidates: Ints
    query: Ints
    ids: Ints
    labels: Ints


@dataclass
class Agreement:
    """Counts of equal and differing decisions of one kind.

    Attributes:
        compared: number of compared decisions.
        near_ties: number of differing decisions within `NEAR` of their threshold.
        errors: one message per frame with any other difference.
    """

    compared: int = 0
    near_ties: int = 0
    errors: list[str] = field(default_factory=list)

    def add(self, where: str, compared: int, differing: Iterable[int], wrong: Iterable[int]) -> None:
        """Add the decisions of one frame.

        Args:
            where: frame name for error messages.
            compared: number of decisions.
            differing: queries whose decisions differ.
            wrong: queries whose decisions differ by more than a near tie.
        """
        self.compared += compared
        self.near_ties += len(set(differing) - set(wrong))
        queries = sorted(set(wrong))
        if queries:
            self.errors.append(f"{where}: queries {queries[:5]}{' …' if len(queries) > 5 else ''}")


class DecisionComparison:
    """Repetition of another run's decisions on our own network output, frame by frame.

    Args:
        config: configuration of the association.

    Attributes:
        parts: agreement by kind of decision, in the order in which the decisions are made.
    """

    def __init__(self, config: AssociationConfig) -> None:
        self._config = config
        self.parts = {name: Agreement() for name in ("selection", "mask NMS", "labels", "track ids")}
        self._tracker = Tracker(config)
        self._next_id = 0
        self._frame = -1

    def add_frame(self, output: NetworkOutput, other: Decisions) -> Detections:
        """Compare one frame; return the other run's detections, in its order, with values of our output."""
        self._frame += 1
        class_scores = sigmoid(output.logits)
        self._compare_selection(class_scores, output.boxes, other.candidates)
        masks = decode_queries(output, other.candidates)
        self._compare_suppression(masks, other)
        scores = class_scores[other.query]
        detections = Detections(
            query=other.query,
            labels=other.labels,
            scores=scores.max(axis=1),
            class_scores=scores,
            boxes=output.boxes[other.query],
            embeddings=output.embeddings[other.query],
            mask_logits=_masks_of(other, masks, output),
            candidates=other.candidates,
        )
        self._compare_labels(detections)
        self._compare_identities(detections, other.ids)
        return detections

    def _add(self, part: str, compared: int, differing: Iterable[int], wrong: Iterable[int]) -> None:
        self.parts[part].add(f"frame {self._frame}", compared, differing, wrong)

    def _compare_selection(self, class_scores: Floats, boxes: Floats, expected: Ints) -> None:
        ours, theirs = select_queries(class_scores, boxes, self._config), expected
        differing = set(ours.tolist()) ^ set(theirs.tolist())
        # Candidates must be sorted by score, except for near ties; mask NMS and the tracker rely on it.
        scores = class_scores.max(axis=1)[theirs]
        wrong = set(theirs[scores > np.minimum.accumulate(scores) + NEAR].tolist()) if len(theirs) else set()
        if differing:
            for outcome in (ours, theirs):
                wrong |= _impossible_candidates(class_scores, boxes, outcome, self._config)
        self._add("selection", len(theirs), differing, wrong)

    def _compare_suppression(self, masks: Floats, other: Decisions) -> None:
        if not len(masks):
            return
        keep = suppress_masks(masks, self._config)
        kept = np.isin(other.candidates, other.query)
        # The survivors must be in the order of the candidates.
        in_order = other.candidates[kept].tolist()
        wrong = set(other.query.tolist()) - set(in_order)
        if not wrong and in_order != other.query.tolist():
            wrong |= set(in_order)
        if (keep != kept).any():
            overlaps = _mask_overlaps(masks, self._config.mask_nms_iou)
            for outcome in (keep, kept):
                wrong |= set(other.candidates[impossible_survivors(overlaps, outcome)].tolist())
        differing = other.candidates[keep != kept].tolist()
        self._add("mask NMS", len(other.candidates), differing, wrong)

    def _compare_labels(self, detections: Detections) -> None:
        ours = detections.class_scores.argmax(axis=1)
        classes = detections.class_scores.shape[1]
        given = detections.class_scores[np.arange(len(ours)), np.clip(detections.labels, 0, classes - 1)]
        known = (detections.labels >= 0) & (detections.labels < classes)
        wrong = ~known | (detections.scores - given > NEAR)
        differing = detections.query[ours != detections.labels].tolist()
        self._add("labels", len(ours), differing, detections.query[wrong].tolist())

    def _compare_identities(self, detections: Detections, expected: Ints) -> None:
        features = (detections.scores, detections.labels, detections.boxes, detections.embeddings)
        ours = self._tracker.associate(*features)
        wrong = np.zeros(len(ours), np.bool_)
        if (ours != expected).any():
            for ids in (ours, expected):
                wrong |= impossible_identities(
                    detections, self._tracker.bank, self._next_id, ids, self._config, NEAR
                )
        differing = detections.query[ours != expected].tolist()
        self._add("track ids", len(ours), differing, detections.query[wrong].tolist())
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
    """Return queries whose selection or rejection no scores and boxes within `NEAR` of these explain."""
    scores, limit = class_scores.max(axis=1), config.select_score
    best = float(scores.max())
    if best <= limit + NEAR and len(chosen) == 1 and scores[chosen[0]] >= best - NEAR:
        return set()  # without a query above the threshold, the best one is selected
    pool = np.flatnonzero(scores > limit - NEAR)
    if best <= limit - NEAR or not len(chosen):
        return {*chosen.tolist(), *pool.tolist(), int(scores.argmax())}
    survives = np.isin(pool, chosen)
    wrong = impossible_survivors(_box_overlaps(class_scores[pool], boxes[pool], config), survives)
    return set(pool[wrong].tolist()) | (set(chosen.tolist()) - set(pool.tolist()))


def _box_overlaps(class_scores: Floats, boxes: Floats, config: AssociationConfig) -> Overlaps:
    scores, corners = class_scores.max(axis=1), cxcywh_to_xyxy(boxes)
    iou = box_iou(corners, corners)
    # Class-wise NMS shifts boxes by class; a shifted corner is rounded to a multiple of `rounding`.
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
    """Return the overlaps of masks [n, h, w], sorted in the order of suppression."""
    flat = masks.reshape(len(masks), -1)
    iou, area = mask_iou(flat > 0), (flat > 0).sum(axis=1)
    # Pixels with a logit near 0 may be set in one run only.
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
