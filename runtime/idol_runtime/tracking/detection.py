"""From the network's 300 queries to the detections of one frame (docs/idol.md §4, steps 1 to 3).

Letters: Q queries, K classes, C embedding width, n detections. Comparisons are made in float32, as published.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from idol_runtime.blas import one_blas_thread
from idol_runtime.config import AssociationConfig
from idol_runtime.tracking.boxes import box_iou, cxcywh_to_xyxy
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
    """What the network says of one frame.

    Attributes:
        logits: [Q, K] class logits.
        boxes: [Q, 4] cxcywh, normalised by the un-padded network input.
        embeddings: [Q, C] instance embeddings, not normalised.
        mask_features: [8, h, w] at stride 8 of the padded network input.
        mask_params: [Q, 169] parameters of the dynamic mask head.
        mask_reference: [Q, 2] x, y of the dynamic mask head's origin, in pixels of the network input.
    """

    logits: NDArray[np.float32]
    boxes: NDArray[np.float32]
    embeddings: NDArray[np.float32]
    mask_features: NDArray[np.float32]
    mask_params: NDArray[np.float32]
    mask_reference: NDArray[np.float32]


@dataclass(frozen=True)
class Detections:
    """The detections of one frame, best score first.

    Attributes:
        query: [n] which query each one is.
        labels: [n] best class.
        scores: [n] its score.
        class_scores: [n, K] sigmoid of the logits.
        boxes: [n, 4] cxcywh, normalised by the un-padded network input.
        embeddings: [n, C].
        mask_logits: [n, h, w] at stride 4 of the padded network input.
        candidates: the queries that went into mask NMS.
    """

    query: NDArray[np.int64]
    labels: NDArray[np.int64]
    scores: NDArray[np.float32]
    class_scores: NDArray[np.float32]
    boxes: NDArray[np.float32]
    embeddings: NDArray[np.float32]
    mask_logits: NDArray[np.float32]
    candidates: NDArray[np.int64]


def suppress(
    iou: NDArray[np.float32],  # [n, n], rows and columns best first
    threshold: float,
) -> NDArray[np.bool_]:  # [n]
    """Greedy non-maximum suppression: which ones stay. Only those that stay suppress others."""
    over = np.triu(iou > np.float32(threshold), k=1)
    keep = np.ones(len(iou), np.bool_)
    for i in np.flatnonzero(over.any(axis=1)):
        if keep[i]:
            keep &= ~over[i]
    return keep


def sigmoid(x: NDArray[np.float32]) -> NDArray[np.float32]:
    """Logistic function in float32, without overflow for any input."""
    out: NDArray[np.float32] = np.float32(1) / (np.float32(1) + np.exp(-np.clip(x, -80, 80)))
    return out


def select_queries(
    class_scores: NDArray[np.float32],  # [Q, K]
    boxes: NDArray[np.float32],  # [Q, 4] cxcywh
    config: AssociationConfig,
) -> NDArray[np.int64]:  # [n]
    """Queries above the score threshold that survive class-wise box NMS, best first; or the one best query."""
    scores = class_scores.max(axis=1)
    query = np.flatnonzero(scores > np.float32(config.select_score))
    if not len(query):
        return np.array([scores.argmax()], np.int64)
    query = query[np.argsort(-scores[query], kind="stable")]
    labels = class_scores[query].argmax(axis=1)
    corners = cxcywh_to_xyxy(boxes[query])
    # Boxes of different classes are moved so far apart that they cannot meet; the shift's rounding is
    # part of the published result.
    shift = labels.astype(np.float32) * (corners.max() + np.float32(1))
    corners += shift[:, None]
    return query[suppress(box_iou(corners, corners), config.box_nms_iou)].astype(np.int64)


def suppress_masks(
    masks: NDArray[np.float32],  # [n, h, w] logits, best first
    config: AssociationConfig,
) -> NDArray[np.bool_]:  # [n]
    """Class-agnostic mask NMS at stride 4, padding included: which ones stay."""
    return suppress(mask_iou(masks.reshape(len(masks), -1) > 0), config.mask_nms_iou)


def decode_queries(output: NetworkOutput, query: NDArray[np.int64]) -> NDArray[np.float32]:
    """Mask logits [n, h, w] of these queries [n]."""
    return decode_masks(output.mask_features, output.mask_params[query], output.mask_reference[query])


@one_blas_thread
def detect(output: NetworkOutput, config: AssociationConfig) -> Detections:
    """Threshold, box NMS, masks of what is left, mask NMS (docs/idol.md §4, steps 1 to 3)."""
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
