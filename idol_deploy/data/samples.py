"""Training samples and the protocol of their sources, without torch (docs/idol.md §5.1).

Letters: n instances; h x w pixels of an augmented frame; H x W pixels of a frame on disk.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from idol_deploy.data.faults import Fault, FaultLog, frame_path
from idol_deploy.data.rle import expand_columns
from idol_runtime.errors import FrameError, SourceError
from idol_runtime.frames import RGBImage
from idol_runtime.sources.images import open_image

__all__ = ["NO_IDENTITY", "AnnotatedFrame", "PairSource", "Sample", "expand_masks", "read_frame"]

NO_IDENTITY = -1


@dataclass(frozen=True, eq=False)
class AnnotatedFrame:
    """An augmented frame and its instances.

    Attributes:
        image: [h, w, 3] uint8 RGB.
        masks: [n, h, w] bool; empty for an absent instance.
        boxes_xyxy: [n, 4] in pixels; undefined for an absent instance.
        present: [n] bool; True for an instance that is visible in this frame after cropping.
    """

    image: RGBImage
    masks: NDArray[np.bool_]
    boxes_xyxy: NDArray[np.float32]
    present: NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Sample:
    """A key and a reference frame with their instances, in the same order in both.

    Attributes:
        name: name of the frames, for messages and pictures.
        key: key frame, on which instances are detected; in a video the earlier frame.
        reference: reference frame, with the instances of the key frame to match.
        labels: [n] class labels of the network.
        identities: [n] numbers of the instances in the data set; `NO_IDENTITY` for still images.
    """

    name: str
    key: AnnotatedFrame
    reference: AnnotatedFrame
    labels: NDArray[np.int64]
    identities: NDArray[np.int64]


class PairSource(Protocol):
    """A source of training samples.

    Attributes:
        log: faults found when the source was opened.
        identities: number of numbered instances; 0 for still images.
        labels: class labels of the usable instances.
    """

    log: FaultLog
    identities: int
    labels: frozenset[int]

    def __len__(self) -> int: ...

    def load(self, index: int, rng: np.random.Generator) -> Sample | Fault:
        """Return a sample, or the fault that prevents it."""


def read_frame(root: Path, file: str, size: tuple[int, int], where: str) -> Image.Image | Fault:
    """Read an RGB frame; return a fault if it cannot be read or has another size than annotated.

    Args:
        root: folder that the file name starts from.
        file: file name.
        size: annotated (H, W) in pixels.
        where: name of the frame in messages.
    """
    path = frame_path(root, file)
    try:
        image = open_image(path)
    except (SourceError, FrameError) as error:
        return Fault("unreadable image", where, str(error))
    if image.size == size[::-1]:
        return image
    why = (
        f"{path} is {image.height}x{image.width} (height x width) but its annotations say "
        f"{size[0]}x{size[1]}; correct one of them"
    )
    return Fault("image of another size", where, why)


def expand_masks(counts: Sequence[bytes | None], size: tuple[int, int]) -> NDArray[np.bool_]:
    """Expand n compressed masks to [n, H, W] bool, empty for None; columns are contiguous in memory."""
    columns = np.zeros((len(counts), size[1], size[0]), np.bool_)
    for mask, text in zip(columns, counts, strict=True):
        if text is not None:
            mask[:] = expand_columns(text, size)
    return columns.transpose(0, 2, 1)
