"""The type of a frame, and its check with a fix for wrong arrays.

H, W: height and width of a frame in pixels. Channels are in RGB order.
"""

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from idol_runtime.errors import FrameError

__all__ = ["Frame", "RGBImage", "check_frame"]

RGBImage: TypeAlias = NDArray[np.uint8]  # [H, W, 3]


@dataclass(frozen=True, eq=False)
class Frame:
    """A frame of a source.

    Attributes:
        index: position in the source, from 0; with a stride, indices are skipped.
        time_s: seconds since the first frame.
        image: [H, W, 3] uint8 RGB, contiguous.
        arrived_s: `time.monotonic()` when the frame had arrived and was decoded; 0 if it was not measured.
        epoch: how often the source has been opened again before this frame; 0 for a file.
    """

    index: int
    time_s: float
    image: RGBImage
    arrived_s: float = 0.0
    epoch: int = 0

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return self.image.shape[0], self.image.shape[1]


def check_frame(array: object, *, name: str = "frame") -> RGBImage:
    """Check that an array is an RGB frame.

    The values do not show the channel order: a BGR frame passes, with red and blue exchanged.

    Args:
        array: array to check, [H, W, 3] uint8 RGB.
        name: name of the array in messages.

    Returns:
        The frame, contiguous; a copy only if the array is not contiguous.

    Raises:
        FrameError: the array has a wrong type or shape, or no pixels; the message gives the conversion.
    """
    if not isinstance(array, np.ndarray):
        raise FrameError(
            f"{name} must be an HxWx3 uint8 RGB numpy array, got {type(array).__name__}; "
            f"convert with numpy.asarray({name})"
        )
    fix = _shape_fix(array, name) or _type_fix(array, name)
    if fix:
        shape = "x".join(map(str, array.shape)) or "no axes"
        raise FrameError(f"{name} must be HxWx3 uint8 RGB, got {shape} {array.dtype}; {fix}")
    return np.ascontiguousarray(array)


def _shape_fix(array: NDArray[np.generic], name: str) -> str | None:
    channels = array.shape[2] if array.ndim == 3 else None
    if array.size == 0:
        return "it holds no pixels: check that the reader succeeded"
    if array.ndim == 2:
        return f"convert with cv2.cvtColor({name}, cv2.COLOR_GRAY2RGB)"
    if array.ndim == 4:
        return f"pass the frames one by one: for image in {name}: ..."
    if channels == 1:
        return f"convert with numpy.repeat({name}, 3, axis=2)"
    if channels == 4:
        return f"drop the alpha channel with {name}[:, :, :3]"
    if channels != 3 and array.ndim == 3 and array.shape[0] == 3:
        return f"put the channels last with {name}.transpose(1, 2, 0)"
    return None if channels == 3 else "pass an image with three channels"


_TYPE_FIXES = (
    (np.floating, "values in 0..1 convert with (255 * {}).round().astype('uint8')"),
    (np.uint16, "convert with ({} >> 8).astype('uint8')"),
    (np.bool_, "convert with {}.astype('uint8') * 255"),
    (np.integer, "values in 0..255 convert with {}.astype('uint8')"),
)


def _type_fix(array: NDArray[np.generic], name: str) -> str | None:
    if array.dtype == np.uint8:
        return None
    fixes = (fix.format(name) for kind, fix in _TYPE_FIXES if np.issubdtype(array.dtype, kind))
    return next(fixes, "pass 8-bit pixels")
