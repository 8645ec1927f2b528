"""Augmentation of training frames: random crops, sizes and flips, as published (docs/idol.md §1, §5.1).

    views = draw_video_views([(360, 640), (360, 640)], config.train, numpy.random.default_rng(0))
    image, masks = views[0].image(frame), views[0].masks(instances)

Drawing is separate from applying: a `View` is a value that transforms images, masks and boxes.
Letters: H x W pixels of the frame; h x w pixels of the view; n instances.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from idol_deploy.config import TrainConfig
from idol_runtime.config import Preprocessing
from idol_runtime.frames import RGBImage
from idol_runtime.preprocess import resize_image

__all__ = [
    "Crop",
    "Flip",
    "Resize",
    "Size",
    "Step",
    "View",
    "boxes_of",
    "draw_still_views",
    "draw_video_views",
]

Size: TypeAlias = tuple[int, int]  # height, width in pixels
_NO_BOUND = 1 << 30


@dataclass(frozen=True)
class Crop:
    """A crop to a window.

    Attributes:
        top: first row.
        left: first column.
        size: (height, width) of the window.
    """

    top: int
    left: int
    size: Size


@dataclass(frozen=True)
class Resize:
    """A resize: bilinear (Pillow) for images, nearest pixel for masks.

    Attributes:
        size: new (height, width).
    """

    size: Size


@dataclass(frozen=True)
class Flip:
    """A horizontal flip."""


Step: TypeAlias = Crop | Resize | Flip


@dataclass(frozen=True)
class View:
    """The augmentation of a frame, as a sequence of steps.

    Attributes:
        source: (H, W) of the frame.
        steps: steps in order (default: none).
    """

    source: Size
    steps: tuple[Step, ...] = ()

    @property
    def size(self) -> Size:
        """(h, w) of the view, without padding."""
        sized = [step.size for step in self.steps if not isinstance(step, Flip)]
        return sized[-1] if sized else self.source

    def image(self, frame: Image.Image) -> RGBImage:
        """Transform an RGB frame to a read-only array [h, w, 3]; it becomes an array after it is resized."""
        for step in self.steps:
            if isinstance(step, Crop):
                (height, width), top, left = step.size, step.top, step.left
                frame = frame.crop((left, top, left + width, top + height))
            elif isinstance(step, Flip):
                frame = frame.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
            else:
                frame = resize_image(frame, step.size)
        return np.asarray(frame)

    def masks(self, masks: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Transform masks [n, H, W] to [n, h, w], with one look-up per pixel for all steps."""
        rows, columns = np.arange(self.source[0]), np.arange(self.source[1])
        for step in self.steps:
            if isinstance(step, Crop):
                (height, width), top, left = step.size, step.top, step.left
                rows, columns = rows[top : top + height], columns[left : left + width]
            elif isinstance(step, Flip):
                columns = columns[::-1]
            else:
                rows = rows[_nearest(len(rows), step.size[0])]
                columns = columns[_nearest(len(columns), step.size[1])]
        # Column-major, the memory order of expanded masks.
        transformed: NDArray[np.bool_] = masks.transpose(0, 2, 1).take(columns, axis=1).take(rows, axis=2)
        return transformed.transpose(0, 2, 1)

    def boxes(self, boxes_xyxy: NDArray[np.float32]) -> NDArray[np.float32]:
        """Transform boxes [n, 4] xyxy from pixels of the frame to pixels of the view, clipped to the view.

        A box outside the view becomes a box without area.
        """
        boxes = boxes_xyxy.astype(np.float64)
        height, width = self.source
        for step in self.steps:
            if isinstance(step, Crop):
                boxes -= [step.left, step.top, step.left, step.top]
                height, width = step.size
            elif isinstance(step, Flip):
                boxes[:, [0, 2]] = width - boxes[:, [2, 0]]
            else:
                scale_y, scale_x = step.size[0] / height, step.size[1] / width
                boxes *= [scale_x, scale_y, scale_x, scale_y]
                height, width = step.size
        return boxes.clip(0, [width, height, width, height]).astype(np.float32)


def draw_video_views(sizes: Sequence[Size], train: TrainConfig, rng: np.random.Generator) -> tuple[View, ...]:
    """Draw views of frames of one video: all or none are cropped, each at its own place, then resized and flipped.

    All have the same short side with `same_size`, and the same flip with `same_flip`.
    """
    cropped = rng.random() < train.crop_probability
    shorts, flips = _shorts_and_flips(len(sizes), train, rng)
    views = []
    for size, short, flip in zip(sizes, shorts, flips, strict=True):
        steps: list[Step] = [_draw_crop(size, train, rng)] if cropped else []
        steps.append(Resize(_resized(View(size, tuple(steps)).size, short, train.max_size)))
        views.append(View(size, (*steps, Flip()) if flip else tuple(steps)))
    return tuple(views)


def draw_still_views(
    size: Size, count: int, train: TrainConfig, rng: np.random.Generator
) -> tuple[View, ...]:
    """Draw independent views of one image that serve as frames of a video.

    Each is randomly flipped, randomly resized and cropped, then resized.
    """
    shorts, flips = _shorts_and_flips(count, train, rng)
    views = []
    for short, flip in zip(shorts, flips, strict=True):
        steps: list[Step] = [Flip()] if flip else []
        if rng.random() < train.crop_probability:
            enlarged = _resized(size, _choose(train.crop_short_sides, rng), _NO_BOUND)
            steps += [Resize(enlarged), _draw_crop(enlarged, train, rng)]
        steps.append(Resize(_resized(View(size, tuple(steps)).size, short, train.max_size)))
        views.append(View(size, tuple(steps)))
    return tuple(views)


def boxes_of(masks: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Return boxes [n, 4] xyxy around masks [n, h, w], exclusive of the end; zeros for an empty mask."""
    boxes = np.zeros((len(masks), 4), np.float32)
    for axis, low, high in ((1, 0, 2), (2, 1, 3)):
        seen: NDArray[np.bool_] = np.logical_or.reduce(masks, axis)
        filled = seen.any(1)
        boxes[filled, low] = seen[filled].argmax(1)
        boxes[filled, high] = seen.shape[1] - seen[filled, ::-1].argmax(1)
    return boxes


def _shorts_and_flips(
    count: int, train: TrainConfig, rng: np.random.Generator
) -> tuple[list[int], list[bool]]:
    shorts = [_choose(train.min_sizes, rng) for _ in range(1 if train.same_size else count)]
    flips = [bool(rng.random() < train.flip_probability) for _ in range(1 if train.same_flip else count)]
    return (shorts * count)[:count], (flips * count)[:count]


def _choose(values: Sequence[int], rng: np.random.Generator) -> int:
    return values[int(rng.integers(len(values)))]


def _draw_crop(size: Size, train: TrainConfig, rng: np.random.Generator) -> Crop:
    """Draw a window of random sides, no larger than the frame, at a random place."""
    least, most = train.crop_range
    height, width = (int(rng.integers(min(side, least), min(side, most) + 1)) for side in size)
    top, left = (int(rng.integers(room + 1)) for room in (size[0] - height, size[1] - width))
    return Crop(top, left, (height, width))


def _resized(size: Size, short: int, longest: int) -> Size:
    return Preprocessing(short_side=short, max_side=longest).network_size(*size)


def _nearest(source: int, target: int) -> NDArray[np.intp]:
    """Return the source pixel of each target pixel; steps are summed as in Pillow, so that ties round alike."""
    steps = np.full(target, source / target)
    steps[0] /= 2
    return np.minimum(np.cumsum(steps).astype(np.intp), source - 1)
