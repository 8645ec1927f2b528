"""From the network's 300 queries to the detections of one frame (IDOL_SPEC §4, steps 1 to 3).

Letters: Q queries, K classes, C embedding width, n detections. Comparisons are made in float32, as published.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from idol_runtime.config import AssociationConfig
from idol_runtime.masks import decode_masks, mask_iou

__all__ = ["Detections", "NetworkOutput", "box_iou", "detect", "select_queries", "suppress"]


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


def box_iou(
    a: NDArray[np.float32],  # [n, 4] xyxy
    b: NDArray[np.float32],  # [m, 4] xyxy
) -> NDArray[np.float32]:  # [n, m]
    """IoU of every pair of boxes; 0 where both are empty."""
    corner = np.maximum(a[:, None, :2], b[None, :, :2])
    overlap = np.minimum(a[:, None, 2:], b[None, :, 2:]) - corner
    intersection = np.maximum(overlap, 0).prod(axis=2)
    areas = [np.prod(boxes[:, 2:] - boxes[:, :2], axis=1) for boxes in (a, b)]
    union = areas[0][:, None] + areas[1][None, :] - intersection
    return np.divide(intersection, union, out=np.zeros_like(intersection), where=union > 0)


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
    return np.float32(1) / (np.float32(1) + np.exp(-np.clip(x, -80, 80)))


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
    half = boxes[query, 2:] * np.float32(0.5)
    corners = np.concatenate([boxes[query, :2] - half, boxes[query, :2] + half], axis=1)
    # Boxes of different classes are moved so far apart that they cannot meet; the shift's rounding is
    # part of the published result.
    shift = labels.astype(np.float32) * (corners.max() + np.float32(1))
    corners += shift[:, None]
    return query[suppress(box_iou(corners, corners), config.box_nms_iou)].astype(np.int64)


def detect(output: NetworkOutput, config: AssociationConfig) -> Detections:
    """Threshold, box NMS, masks of what is left, mask NMS (IDOL_SPEC §4, steps 1 to 3)."""
    class_scores = sigmoid(output.logits)
    candidates = select_queries(class_scores, output.boxes, config)
    masks = decode_masks(
        output.mask_features, output.mask_params[candidates], output.mask_reference[candidates]
    )
    iou = mask_iou(masks.reshape(len(masks), -1) > 0)
    keep = suppress(iou, config.mask_nms_iou)
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
