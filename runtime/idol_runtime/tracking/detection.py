"""Detection: from the network's 300 queries to the detections of one frame (docs/idol.md §4, steps 1 to 3).

Letters: Q queries; K classes; C embedding width; n detections. Thresholds are compared in float32, as published.
"""

from dataclasses import dataclass

import numpy as np

from idol_runtime.blas import one_blas_thread
from idol_runtime.config import AssociationConfig
from idol_runtime.tracking.boxes import Bools, Floats, Ints, box_iou, cxcywh_to_xyxy
from idol_runtime.tracking.masks import decode_masks, mask_iou

__all__ = [
    "Detections",
    "NetworkOutput",
    "decode_queries",
    "detect",
    "select_queries",
    "sigmoid",
    "suppress",
    "suppress_masks",
]


@dataclass(frozen=True)
class NetworkOutput:
    """The network's output for one frame.

    Attributes:
        logits: [Q, K] class logits.
        boxes: [Q, 4] cxcywh boxes, normalised by the un-padded network input.
        embeddings: [Q, C] instance embeddings, not normalised.
        mask_features: [8, h, w] features at stride 8 of the padded network input.
        mask_params: [Q, 169] parameters of the dynamic mask head.
        mask_reference: [Q, 2] x, y of the dynamic mask head's origin, in pixels of the network input.
    """

    logits: Floats
    boxes: Floats
    embeddings: Floats
    mask_features: Floats
    mask_params: Floats
    mask_reference: Floats


@dataclass(frozen=True)
class Detections:
    """The detections of one frame, best score first.

    Attributes:
        query: [n] indices of the queries.
        labels: [n] best class of each detection.
        scores: [n] scores of these classes, in 0..1.
        class_scores: [n, K] scores of all classes: the sigmoid of the logits.
        boxes: [n, 4] cxcywh boxes, normalised by the un-padded network input.
        embeddings: [n, C] instance embeddings.
        mask_logits: [n, h, w] mask logits at stride 4 of the padded network input.
        candidates: indices of the queries before mask NMS.
    """

    query: Ints
    labels: Ints
    scores: Floats
    class_scores: Floats
    boxes: Floats
    embeddings: Floats
    mask_logits: Floats
    candidates: Ints


def suppress(iou: Floats, threshold: float) -> Bools:  # [n, n], best first -> [n]
    """Return which instances greedy non-maximum suppression keeps; suppressed ones suppress no others."""
    over = np.triu(iou > np.float32(threshold), k=1)
    keep = np.ones(len(iou), np.bool_)
    for i in np.flatnonzero(over.any(axis=1)):
        if keep[i]:
            keep &= ~over[i]
    return keep


def sigmoid(x: Floats) -> Floats:
    """Return the logistic function in float32, without overflow for any input."""
    return np.asarray(np.float32(1) / (np.float32(1) + np.exp(-np.clip(x, -80, 80))))


def select_queries(
    class_scores: Floats,  # [Q, K]
    boxes: Floats,  # [Q, 4] cxcywh
    config: AssociationConfig,
) -> Ints:  # [n]
    """Return the queries above the score threshold after class-wise box NMS, best first.

    If no query is above the threshold, return the best one.
    """
    scores = class_scores.max(axis=1)
    query = np.flatnonzero(scores > np.float32(config.select_score))
    if not len(query):
        return np.array([scores.argmax()], np.int64)
    query = query[np.argsort(-scores[query], kind="stable")]
    labels = class_scores[query].argmax(axis=1)
    corners = cxcywh_to_xyxy(boxes[query])
    # Boxes of different classes are moved so far apart that they cannot overlap. The rounding error of this shift is
    # part of the published result.
    shift = labels.astype(np.float32) * (corners.max() + np.float32(1))
    corners += shift[:, None]
    return query[suppress(box_iou(corners, corners), config.box_nms_iou)].astype(np.int64)


def suppress_masks(masks: Floats, config: AssociationConfig) -> Bools:  # [n, h, w] logits, best first -> [n]
    """Return which instances class-agnostic mask NMS keeps, at stride 4 and including the padding."""
    return suppress(mask_iou(masks.reshape(len(masks), -1) > 0), config.mask_nms_iou)


def decode_queries(output: NetworkOutput, query: Ints) -> Floats:  # [n] -> [n, h, w]
    """Decode the mask logits of the given queries."""
    return decode_masks(output.mask_features, output.mask_params[query], output.mask_reference[query])


@one_blas_thread()
def detect(output: NetworkOutput, config: AssociationConfig) -> Detections:
    """Select queries by score and box NMS, decode their masks and apply mask NMS (docs/idol.md §4, steps 1 to 3)."""
    class_scores = sigmoid(output.logits)
    candidates = select_queries(class_scores, output.boxes, config)
    masks = decode_queries(output, candidates)
    keep = suppress_masks(masks, config)
    query = candidates[keep]
    return Detections(
        query=query,
        labels=class_scores[query].argmax(axis=1),
        scores=class_scores[query].max(axis=1),
        class_scores=class_scores[query],
        boxes=output.boxes[query],
        embeddings=output.embeddings[query],
        mask_logits=masks[keep],
        candidates=candidates,
    )
