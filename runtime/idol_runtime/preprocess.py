"""From a source frame to the network's input, bit for bit as published (docs/idol.md §2).

The resize is Pillow's bilinear filter, with its antialiasing and 8-bit rounding, on uint8. Subtraction of the
mean, division by the standard deviation and zero padding are part of the exported graph; `normalise` is
their numpy twin. Letters: H, W source frame; h, w network input before padding.
"""

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from idol_plugins.errors import PluginError
from idol_plugins.image import ImageLibrary
from idol_runtime.config import Preprocessing
from idol_runtime.tracking.boxes import cxcywh_to_xyxy

__all__ = ["Placement", "letterbox", "normalise", "resize", "resize_image"]


def resize(
    frame: NDArray[np.uint8],  # [H, W, 3]
    size: tuple[int, int],
) -> NDArray[np.uint8]:  # [h, w, 3]
    """Resize to (h, w) pixels as Pillow does; a frame of that size already is returned as it is.

    Along the columns first: Pillow 13 begins along the rows where that takes less time, and rounds differently then.
    """
    if frame.shape[:2] == size:
        return frame
    if (library := _library()) is not None:
        return library.resize(frame, size)
    return np.asarray(resize_image(Image.fromarray(frame), size))


def resize_image(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """The same, of and to an image of Pillow's."""
    for columns, rows in ((size[1], image.height), (size[1], size[0])):
        image = image.resize((columns, rows), Image.Resampling.BILINEAR)
    return image


@cache
def _library() -> ImageLibrary | None:
    """Gives the same answer sooner, where it is built."""
    try:
        return ImageLibrary()
    except PluginError:
        return None


def normalise(
    image: NDArray[np.uint8],  # [h, w, 3]
    preprocessing: Preprocessing,
) -> NDArray[np.float32]:  # [3, padded h, padded w]
    """(image - mean) / std per channel, then zeros at the right and bottom, in float32."""
    height, width = image.shape[:2]
    padded = np.zeros((3, *preprocessing.padded_size(height, width)), np.float32)
    mean = np.asarray(preprocessing.mean, np.float32)
    std = np.asarray(preprocessing.std, np.float32)
    padded[:, :height, :width] = ((image.astype(np.float32) - mean) / std).transpose(2, 0, 1)
    return padded


@dataclass(frozen=True)
class Placement:
    """Where a source frame lies in the network input.

    Attributes:
        frame: (H, W) of the source, in pixels.
        network: (h, w) of the network input without padding, in pixels.
        content: (h, w) that the frame covers from the top left corner; smaller than `network` only when
            letterboxed.
    """

    frame: tuple[int, int]
    network: tuple[int, int]
    content: tuple[int, int]

    def boxes_to_frame(self, boxes_cxcywh: NDArray[np.float32]) -> NDArray[np.float32]:
        """Boxes [n, 4] from cxcywh, in shares of the network input, to xyxy in pixels of the frame, clipped."""
        corners = cxcywh_to_xyxy(boxes_cxcywh)
        (net_h, net_w), (con_h, con_w), (height, width) = self.network, self.content, self.frame
        scale_x, scale_y = net_w / con_w * width, net_h / con_h * height
        corners *= np.array([scale_x, scale_y, scale_x, scale_y], np.float32)
        limits = np.array([width, height, width, height], np.float32)
        clipped: NDArray[np.float32] = np.minimum(np.maximum(corners, np.float32(0)), limits)
        return clipped


def letterbox(
    frame: NDArray[np.uint8],  # [H, W, 3]
    size: tuple[int, int],
    mean: tuple[float, float, float],
) -> tuple[NDArray[np.uint8], Placement]:
    """Fit a frame of any size into (h, w) without distortion, at the top left, the rest in the mean colour."""
    height, width = frame.shape[:2]
    scale = min(size[0] / height, size[1] / width)
    content = (
        min(size[0], max(1, int(height * scale + 0.5))),
        min(size[1], max(1, int(width * scale + 0.5))),
    )
    canvas = np.empty((*size, 3), np.uint8)
    canvas[:] = np.round(np.asarray(mean)).astype(np.uint8)
    canvas[: content[0], : content[1]] = resize(frame, content)
    return canvas, Placement(frame=(height, width), network=size, content=content)
