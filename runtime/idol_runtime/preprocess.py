"""Preprocessing of a source frame to the network input, equal bit for bit to the published one (docs/idol.md §2).

The resize is Pillow's bilinear filter, with its antialiasing and 8-bit rounding, on uint8. The exported graph subtracts
the mean, divides by the standard deviation and pads with zeros; `normalise` is the reference implementation of these.
Letters: H, W source frame; h, w network input before padding.
"""

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from idol_plugins.errors import PluginError
from idol_plugins.image import ImageLibrary
from idol_runtime.config import Preprocessing
from idol_runtime.frames import RGBImage
from idol_runtime.tracking.boxes import cxcywh_to_xyxy

__all__ = ["Placement", "letterbox", "normalise", "resize", "resize_image"]


def resize(frame: RGBImage, size: tuple[int, int]) -> RGBImage:
    """Resize a frame to (h, w) pixels like Pillow; a frame of that size is returned unchanged.

    Columns are resized first: Pillow 13 starts with the rows where that is faster, which rounds differently.
    """
    if frame.shape[:2] == size:
        return frame
    if (library := _library()) is not None:
        return library.resize(frame, size)
    return np.asarray(resize_image(Image.fromarray(frame), size))


def resize_image(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Resize a Pillow image like `resize`."""
    for columns, rows in ((size[1], image.height), (size[1], size[0])):
        image = image.resize((columns, rows), Image.Resampling.BILINEAR)
    return image


@cache
def _library() -> ImageLibrary | None:
    """Return the compiled resize, which is faster with equal results; None if it is not built."""
    try:
        return ImageLibrary()
    except PluginError:
        return None


def normalise(
    image: RGBImage, preprocessing: Preprocessing
) -> NDArray[np.float32]:  # [3, padded h, padded w]
    """Return (image - mean) / std per channel in float32, padded with zeros at the right and bottom."""
    height, width = image.shape[:2]
    padded = np.zeros((3, *preprocessing.padded_size(height, width)), np.float32)
    mean = np.asarray(preprocessing.mean, np.float32)
    std = np.asarray(preprocessing.std, np.float32)
    padded[:, :height, :width] = ((image.astype(np.float32) - mean) / std).transpose(2, 0, 1)
    return padded


@dataclass(frozen=True)
class Placement:
    """The position of a source frame in the network input.

    Attributes:
        frame: (H, W) of the source, in pixels.
        network: (h, w) of the network input without padding, in pixels.
        content: (h, w) of the frame in the network input, from the top left corner, in pixels; smaller than `network`
            only for letterboxed frames.
    """

    frame: tuple[int, int]
    network: tuple[int, int]
    content: tuple[int, int]

    def boxes_to_frame(self, boxes_cxcywh: NDArray[np.float32]) -> NDArray[np.float32]:
        """Convert boxes [n, 4] from cxcywh in shares of the network input to clipped xyxy in pixels of the frame."""
        corners = cxcywh_to_xyxy(boxes_cxcywh)
        (net_h, net_w), (con_h, con_w), (height, width) = self.network, self.content, self.frame
        scale_x, scale_y = net_w / con_w * width, net_h / con_h * height
        corners *= np.array([scale_x, scale_y, scale_x, scale_y], np.float32)
        limits = np.array([width, height, width, height], np.float32)
        clipped: NDArray[np.float32] = np.minimum(np.maximum(corners, np.float32(0)), limits)
        return clipped


def letterbox(
    frame: RGBImage, size: tuple[int, int], mean: tuple[float, float, float]
) -> tuple[RGBImage, Placement]:
    """Fit a frame into (h, w) pixels at the top left, undistorted, and fill the rest with the mean colour."""
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
