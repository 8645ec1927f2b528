"""Frames with objects that come and go, and a network that detects them without an engine."""

import numpy as np
from numpy.typing import NDArray

from idol_runtime.backends.base import BatchLimit
from idol_runtime.config import AssociationConfig, Category, Preprocessing, StreamConfig
from idol_runtime.tracking.detection import NetworkOutput

__all__ = ["CONFIG", "OBJECTS", "SceneBackend", "picture"]

OBJECTS = 5  # the last one is of another class
CONFIG = StreamConfig(
    categories=(Category("cat", 1), Category("dog", 2)),
    preprocessing=Preprocessing(short_side=None),
    association=AssociationConfig(mask_nms_iou=1.0),  # all masks are the whole frame
)


def picture(scores: dict[int, float]) -> NDArray[np.uint8]:
    """Return a frame of 32x64 pixels with objects of these scores, in 0..1; the others are absent."""
    image = np.zeros((32, 64, 3), np.uint8)
    for i, score in scores.items():
        image[:, 8 * i : 8 * i + 8] = round(255 * score)
    return image


class SceneBackend:
    """A backend that detects the objects of `picture` at their scores, each with its own embedding and box."""

    name, graph, reason, network_size, batch = "scene (numpy)", None, "", None, BatchLimit()

    def infer(self, images: NDArray[np.uint8]) -> list[NetworkOutput]:
        return [self._one(image) for image in images]

    def _one(self, image: NDArray[np.uint8]) -> NetworkOutput:
        scores = np.clip(image[0, 4 : 8 * OBJECTS : 8, 0] / 255, 1e-6, 1 - 1e-6)
        logits = np.full((OBJECTS, 2), -20, np.float32)
        logits[range(OBJECTS), [0] * (OBJECTS - 1) + [1]] = np.log(scores / (1 - scores))
        boxes = np.array([[(8 * i + 4) / 64, 0.5, 8 / 64, 1] for i in range(OBJECTS)], np.float32)
        params = np.zeros((OBJECTS, 169), np.float32)
        params[:, 168] = 1
        return NetworkOutput(
            logits=logits,
            boxes=boxes,
            embeddings=9 * np.eye(OBJECTS, dtype=np.float32),
            mask_features=np.ones((8, image.shape[0] // 8, image.shape[1] // 8), np.float32),
            mask_params=params,
            mask_reference=np.zeros((OBJECTS, 2), np.float32),
        )

    def close(self) -> None:
        """Do nothing."""
