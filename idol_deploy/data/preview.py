"""A training batch as a picture: what the network sees, and what it is told about it.

A row for each pair, the key frame at the left. Masks, boxes and identities are drawn from the very tensors that the
losses take; a reference frame has boxes alone, since training needs no more of it. Padding is light grey.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from idol_deploy.objective.batch import Batch
from idol_deploy.objective.boxes import to_xyxy
from idol_runtime.files import replacing
from idol_runtime.frames import RGBImage
from idol_runtime.sinks.draw import draw
from idol_runtime.tracking.crops import MaskCrop, crop_masks

__all__ = ["draw_pairs", "write_pairs"]

_PADDING = 208  # no frame is of so even a grey
_GAP = 8
_STRIP = 40  # pixels below each frame, for its caption: it should hide nothing


@dataclass(frozen=True, eq=False)
class _Drawn:
    """Instances as `draw` takes them."""

    ids: NDArray[np.int64]
    labels: NDArray[np.int64]
    scores: NDArray[np.float32]
    boxes_xyxy: NDArray[np.float32]
    crops: Sequence[MaskCrop]
    size: tuple[int, int]
    class_names: Sequence[str]


def draw_pairs(
    batch: Batch, class_names: Sequence[str], scale: int = 1
) -> RGBImage:  # [N * (scale * H + 48) - 8, 2 * scale * W + 8, 3]
    """Draw the N pairs of a batch.

    An instance has the same number and colour in both frames: its place among the targets of its pair.

    Args:
        batch: as a loader gives it, on the CPU.
        class_names: a name per label.
        scale: sides of the square that each pixel becomes.

    Raises:
        MissingDependencyError: OpenCV is not installed.
    """
    rows = []
    for pair in range(len(batch.targets.labels)):
        key, reference = (_draw_frame(batch, pair, which, class_names, scale) for which in (0, 1))
        rows += [_join((key, reference), axis=1)]
    return _join(rows, axis=0)


def write_pairs(batch: Batch, class_names: Sequence[str], path: str | Path, scale: int = 1) -> None:
    """Write the picture of a batch, as PNG or whatever else the name ends in.

    Raises:
        MissingDependencyError: OpenCV is not installed.
        OutputError: the file cannot be written.
    """
    image = Image.fromarray(draw_pairs(batch, class_names, scale))
    with replacing(path) as temporary:
        image.save(temporary)


def _draw_frame(batch: Batch, pair: int, which: int, class_names: Sequence[str], scale: int) -> RGBImage:
    """Frame `which` of a pair: 0 the key, 1 the reference."""
    targets = batch.targets
    padded = batch.padding_mask[2 * pair + which].numpy().repeat(scale, 0).repeat(scale, 1)
    image = batch.images[2 * pair + which].permute(1, 2, 0).numpy().repeat(scale, 0).repeat(scale, 1)
    canvas = np.full((image.shape[0] + _STRIP, *image.shape[1:]), _PADDING, np.uint8)
    canvas[: len(image)][~padded] = image[~padded]
    size = int((~padded[:, 0]).sum()), int((~padded[0]).sum())
    exists = targets.exists[pair]
    shown = targets.on_reference[pair] if which else exists
    boxes = (targets.reference_boxes if which else targets.boxes)[pair][shown]
    masks = np.zeros((len(boxes), *canvas.shape[:2]), np.bool_)
    if not which:
        masks[:, : len(image)] = _full_size(targets.masks[pair][shown].numpy(), image)
    drawn = _Drawn(
        ids=shown.nonzero()[:, 0].numpy(),
        labels=targets.labels[pair][shown].numpy(),
        scores=np.ones(len(boxes), np.float32),
        boxes_xyxy=_in_pixels(boxes, size),
        crops=crop_masks(masks),
        size=(canvas.shape[0], canvas.shape[1]),
        class_names=class_names,
    )
    count = f"{len(boxes)} of {int(exists.sum())}" if which else str(len(boxes))
    caption = f"{('key', 'reference')[which]}: {size[0] // scale} x {size[1] // scale}, instances: {count}"
    return draw(canvas, drawn, boxes=True, scores=False, caption=caption)


def _in_pixels(boxes_cxcywh: Tensor, size: tuple[int, int]) -> NDArray[np.float32]:
    height, width = size
    corners: NDArray[np.float32] = to_xyxy(boxes_cxcywh).numpy()
    return corners * np.array([width, height, width, height], np.float32)


def _full_size(masks: NDArray[np.bool_], image: RGBImage) -> NDArray[np.bool_]:
    """[n, H, W] of masks in which every fourth pixel is left, as blocks."""
    stride = len(image) // masks.shape[1]
    return masks.repeat(stride, 1).repeat(stride, 2)


def _join(images: Sequence[RGBImage], axis: int) -> RGBImage:
    """Side by side or below each other, with white between."""
    shape = list(images[0].shape)
    shape[axis] = _GAP
    gap = np.full(shape, 255, np.uint8)
    return np.concatenate([part for image in images for part in (image, gap)][:-1], axis)
