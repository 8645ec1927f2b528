"""Sample frames and results for tests of sinks and drawing."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from idol_runtime.config import Category, StreamConfig
from idol_runtime.frames import Frame
from idol_runtime.sinks.base import SinkContext
from idol_runtime.tracking.crops import MaskCrop, crop_masks

__all__ = ["SIZE", "Result", "context", "frame", "nothing", "result"]

SIZE = (48, 64)


@dataclass
class Result:
    ids: NDArray[np.int64]
    labels: NDArray[np.int64]
    scores: NDArray[np.float32]
    boxes_xyxy: NDArray[np.float32]
    masks: NDArray[np.bool_]
    class_names: Sequence[str] = ("person", "cat")

    @property
    def crops(self) -> Sequence[MaskCrop]:
        return crop_masks(self.masks)

    @property
    def size(self) -> tuple[int, int]:
        return self.masks.shape[1], self.masks.shape[2]


def frame(index: int = 0, size: tuple[int, int] = SIZE) -> Frame:
    return Frame(index, index / 30, np.full((*size, 3), 128, np.uint8))


def result(size: tuple[int, int] = SIZE, ids: Sequence[int] = (0, 3)) -> Result:
    """Return two overlapping rectangles; the first has the lower score."""
    masks = np.zeros((2, *size), np.bool_)
    masks[0, 4:20, 4:30] = True
    masks[1, 10:30, 10:40] = True
    return Result(
        ids=np.array(ids, np.int64),
        labels=np.array([1, 0], np.int64),
        scores=np.array([0.25, 0.87], np.float32),
        boxes_xyxy=np.array([[4, 4, 30, 20], [10, 10, 40, 30.126]], np.float32),
        masks=masks,
    )


def nothing(size: tuple[int, int] = SIZE) -> Result:
    empty = result(size)
    return Result(empty.ids[:0], empty.labels[:0], empty.scores[:0], empty.boxes_xyxy[:0], empty.masks[:0])


def context(fps: float = 30.0, boxes: bool = False, caption: str | None = None, **facts: Any) -> SinkContext:
    config = StreamConfig(categories=(Category("person", 1), Category("cat", 2)))
    return SinkContext("street", fps, config, boxes=boxes, caption=caption, **{"tell": id, **facts})
