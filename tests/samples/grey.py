"""A network without an engine, whose detections depend on the brightness of a frame."""

import numpy as np

from idol_runtime.backends.base import BatchLimit
from idol_runtime.config import Category, Preprocessing, StreamConfig
from idol_runtime.tracking.detection import NetworkOutput

CONFIG = StreamConfig(categories=(Category("grey", 1),), preprocessing=Preprocessing(short_side=None))


class GreyBackend:
    """A backend that detects one instance per frame, with a score that grows with the brightness."""

    name, graph, reason, network_size, batch = "grey (numpy)", None, "", None, BatchLimit()

    def __init__(self) -> None:
        self.seen: list[int] = []

    def infer(self, images: np.ndarray) -> list[NetworkOutput]:
        self.seen.append(len(images))
        return [self._one(image) for image in images]

    def _one(self, image: np.ndarray) -> NetworkOutput:
        params = np.zeros((1, 169), np.float32)
        params[:, 168] = 1
        return NetworkOutput(
            logits=np.full((1, 1), image.mean() / 64, np.float32),
            boxes=np.full((1, 4), 0.5, np.float32),
            embeddings=np.ones((1, 4), np.float32),
            mask_features=np.ones((8, image.shape[0] // 8, image.shape[1] // 8), np.float32),
            mask_params=params,
            mask_reference=np.zeros((1, 2), np.float32),
        )

    def close(self) -> None:
        """Do nothing."""
