"""Training pairs as the network sees them: the first batch of a run, read by the run's own loader.

One row per pair, with the key frame on the left. Masks, boxes and identities are drawn from the tensors that the losses
take; a reference frame has boxes only, since training needs no more. Padding is light grey.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from idol_deploy.data.loader import LoaderState, PairLoader
from idol_deploy.objective.batch import Batch
from idol_deploy.objective.boxes import to_xyxy
from idol_deploy.settings import TrainSettings
from idol_deploy.train.data import open_training_data
from idol_runtime.errors import ConfigError
from idol_runtime.files import replacing, writable_target
from idol_runtime.frames import RGBImage
from idol_runtime.optional import load_cv2
from idol_runtime.sinks.draw import draw
from idol_runtime.tracking.crops import MaskCrop, crop_masks

__all__ = ["draw_pairs", "draw_training_pairs", "write_pairs"]

_PADDING = 208  # grey value of padding
_GAP = 8  # pixels between frames
_STRIP = 40  # pixels below each frame, for its caption
_READABLE = 320  # short side in pixels that a frame is enlarged to, so that its text is readable


@dataclass(frozen=True, eq=False)
class _Instances:
    """Instances of a frame in the form that `draw` takes."""

    ids: NDArray[np.int64]
    labels: NDArray[np.int64]
    scores: NDArray[np.float32]
    boxes_xyxy: NDArray[np.float32]
    crops: Sequence[MaskCrop]
    size: tuple[int, int]
    class_names: Sequence[str]


def draw_training_pairs(
    settings: TrainSettings, path: str | Path, *, pairs: int = 4, start: int = 0
) -> tuple[str, ...]:
    """Draw the pairs that a run with these settings trains on, one row per pair.

    Args:
        settings: settings of the run; the seed decides order and augmentation.
        path: picture to write, in a format of Pillow.
        pairs: number of pairs (default: 4).
        start: number of pairs that the run has taken before (default: 0).

    Returns:
        One line per kind of fault in the data.

    Raises:
        ConfigError: the picture's suffix is unknown, or the settings contradict each other.
        DataError: annotations or frames are unusable.
        OutputError: the picture cannot be written.
        MissingDependencyError: OpenCV or pycocotools is not installed.
    """
    if Path(path).suffix.lower() not in (".png", ".jpg", ".jpeg", ".webp"):
        raise ConfigError(f"unknown picture format: {path}; use the suffix .png, .jpg or .webp")
    writable_target(path)
    load_cv2("drawing pairs")
    source, network = open_training_data(settings).pairs, settings.network
    state = LoaderState(settings.run.seed, start)
    loader = PairLoader(source, network.preprocessing, pairs=pairs, state=state, strict=settings.data.strict)
    (batch,) = itertools.islice(loader, 1)
    write_pairs(batch, network.classes, path, scale=-(-_READABLE // min(batch.images.shape[2:])))
    return (*source.log.summary(), *loader.log.summary())


def write_pairs(batch: Batch, class_names: Sequence[str], path: str | Path, scale: int = 1) -> None:
    """Write the picture of a batch, in the format of the suffix; arguments as `draw_pairs`.

    Raises:
        MissingDependencyError: OpenCV is not installed.
        OutputError: the file cannot be written.
    """
    image = Image.fromarray(draw_pairs(batch, class_names, scale))
    with replacing(path) as temporary:
        image.save(temporary)


def draw_pairs(
    batch: Batch, class_names: Sequence[str], scale: int = 1
) -> RGBImage:  # [N * (scale * H + 48) - 8, 2 * scale * W + 8, 3]
    """Draw the N pairs of a batch.

    An instance has the same number and colour in both frames: its index among the targets of its pair.

    Args:
        batch: batch of a loader, on the CPU.
        class_names: one name per label.
        scale: factor by which frames are enlarged (default: 1).

    Raises:
        MissingDependencyError: OpenCV is not installed.
    """
    rows = [
        _join([_draw_frame(batch, pair, which, class_names, scale) for which in (0, 1)], axis=1)
        for pair in range(len(batch.targets.labels))
    ]
    return _join(rows, axis=0)


def _draw_frame(batch: Batch, pair: int, which: int, class_names: Sequence[str], scale: int) -> RGBImage:
    """Draw a frame of a pair: the key frame (`which` 0) or the reference frame (1)."""
    targets = batch.targets
    padded = batch.padding_mask[2 * pair + which].numpy().repeat(scale, 0).repeat(scale, 1)
    image = batch.images[2 * pair + which].permute(1, 2, 0).numpy().repeat(scale, 0).repeat(scale, 1)
    canvas = np.full((image.shape[0] + _STRIP, *image.shape[1:]), _PADDING, np.uint8)
    canvas[: len(image)][~padded] = image[~padded]
    height, width = int((~padded[:, 0]).sum()), int((~padded[0]).sum())
    exists = targets.exists[pair]
    shown = targets.on_reference[pair] if which else exists
    boxes = to_xyxy((targets.reference_boxes if which else targets.boxes)[pair][shown]).numpy()
    masks = np.zeros((len(boxes), *canvas.shape[:2]), np.bool_)
    if not which:  # masks of the targets have every fourth pixel
        stride = len(image) // targets.masks.shape[2]
        masks[:, : len(image)] = targets.masks[pair][shown].numpy().repeat(stride, 1).repeat(stride, 2)
    instances = _Instances(
        ids=shown.nonzero()[:, 0].numpy(),
        labels=targets.labels[pair][shown].numpy(),
        scores=np.ones(len(boxes), np.float32),
        boxes_xyxy=boxes * np.array([width, height, width, height], np.float32),
        crops=crop_masks(masks),
        size=(canvas.shape[0], canvas.shape[1]),
        class_names=class_names,
    )
    count = f"{len(boxes)} of {int(exists.sum())}" if which else str(len(boxes))
    caption = f"{('key', 'reference')[which]}: {height // scale} x {width // scale}, instances: {count}"
    return draw(canvas, instances, boxes=True, scores=False, caption=caption)


def _join(images: Sequence[RGBImage], axis: int) -> RGBImage:
    """Concatenate images with white gaps."""
    shape = list(images[0].shape)
    shape[axis] = _GAP
    gap = np.full(shape, 255, np.uint8)
    return np.concatenate([part for image in images for part in (image, gap)][:-1], axis)
