"""What a source of training pairs gives, and what sources have in common (docs/idol.md §5.1). No torch here.

n: instances; h x w: pixels of an augmented frame, H x W of one on disk.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from idol_deploy.data.faults import Fault, FaultLog
from idol_deploy.data.rle import expand_columns
from idol_runtime.errors import FrameError, SourceError
from idol_runtime.frames import RGBImage
from idol_runtime.sources.images import open_image

__all__ = [
    "NO_IDENTITY",
    "AnnotatedFrame",
    "PairSource",
    "Sample",
    "expand_masks",
    "read_frame",
    "unlisted_class",
]

NO_IDENTITY = -1


@dataclass(frozen=True, eq=False)
class AnnotatedFrame:
    """An augmented frame and its instances.

    Attributes:
        image: [h, w, 3] uint8 RGB.
        masks: [n, h, w] bool, empty where absent.
        boxes_xyxy: [n, 4] in pixels; any value where absent.
        present: [n] bool, the instance is seen in this frame, after cropping.
    """

    image: RGBImage
    masks: NDArray[np.bool_]
    boxes_xyxy: NDArray[np.float32]
    present: NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Sample:
    """Two frames and the instances of either, in one order.

    Attributes:
        name: which frames, for messages and pictures.
        key: the frame whose instances are detected; the earlier one of a video.
        reference: the frame on which they are found again.
        labels: [n] classes of the network.
        identities: [n] number of the instance among all of the data set; `NO_IDENTITY` in still images.
    """

    name: str
    key: AnnotatedFrame
    reference: AnnotatedFrame
    labels: NDArray[np.int64]
    identities: NDArray[np.int64]


class PairSource(Protocol):
    """What a loader reads.

    Attributes:
        log: what was left out when the source was opened.
        identities: instances that have a number; 0 for still images.
    """

    log: FaultLog
    identities: int

    def __len__(self) -> int: ...

    def load(self, index: int, rng: np.random.Generator) -> Sample | Fault:
        """A sample, or why there is none."""


def unlisted_class(path: Path, annotation: int, name: str) -> Fault:
    """The fault of an annotation whose class the network does not have."""
    why = f"the network has no class {name!r}; add it to the classes, or remove the annotation"
    return Fault(f"class {name!r} is not in the list", f"{path}: annotation {annotation}", why)


def read_frame(root: Path, file: str, size: tuple[int, int], where: str) -> Image.Image | Fault:
    """An RGB frame, or why it cannot be read or is not what was annotated.

    Args:
        root: the folder that the file's name starts from.
        file: its name.
        size: (H, W) as annotated.
        where: what a message calls it.
    """
    try:
        image = open_image(root / file)
    except (SourceError, FrameError) as error:
        return Fault("unreadable image", where, str(error))
    if image.size == size[::-1]:
        return image
    why = (
        f"{root / file} is {image.height}x{image.width} (height x width), its annotations say "
        f"{size[0]}x{size[1]}; mend one of them"
    )
    return Fault("image of another size", where, why)


def expand_masks(counts: Sequence[bytes | None], size: tuple[int, int]) -> NDArray[np.bool_]:
    """Masks [n, H, W] of n compressed ones, empty where None; their columns are contiguous."""
    columns = np.zeros((len(counts), size[1], size[0]), np.bool_)
    for mask, text in zip(columns, counts, strict=True):
        if text is not None:
            mask[:] = expand_columns(text, size)
    return columns.transpose(0, 2, 1)
