"""Annotated frames: masks, contours and tags drawn over a frame.

n: instances; H, W: height and width of the frame in pixels.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from idol_runtime.errors import FrameError
from idol_runtime.frames import RGBImage, check_frame
from idol_runtime.optional import load_cv2
from idol_runtime.sinks.palette import id_colour
from idol_runtime.sinks.tags import Rectangle, TagWriter
from idol_runtime.tracking.crops import MaskCrop

__all__ = ["DrawableResult", "class_name", "draw"]

_FILL = 0.42  # share of the track's colour in the area of its mask
_SHADOW = (16, 16, 16)


class DrawableResult(Protocol):
    """The part of a frame's result that drawing and writing need."""

    @property
    def ids(self) -> NDArray[np.int64]:
        """Track identities [n], from 0."""

    @property
    def labels(self) -> NDArray[np.int64]:
        """Classes [n], as indices into `class_names`."""

    @property
    def scores(self) -> NDArray[np.float32]:
        """Scores [n], in 0..1."""

    @property
    def boxes_xyxy(self) -> NDArray[np.float32]:
        """Boxes [n, 4], in pixels of the frame."""

    @property
    def crops(self) -> Sequence[MaskCrop]:
        """Masks, stored as n crops."""

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the frame in pixels."""

    @property
    def class_names(self) -> Sequence[str]:
        """Name of every class."""


@dataclass(frozen=True)
class _Instance:
    text: str
    colour: tuple[int, int, int]
    box: Rectangle
    mask: NDArray[np.uint8]  # 0 or 1, within its extent
    extent: Rectangle | None  # None: the mask is empty


def class_name(label: int, class_names: Sequence[str]) -> str:
    """Return the name of a class; `class 7` if there is no name for index 7."""
    return class_names[label] if 0 <= label < len(class_names) else f"class {label}"


def draw(
    frame: RGBImage,  # [H, W, 3]
    result: DrawableResult,
    *,
    boxes: bool = False,
    scores: bool = True,
    caption: str | None = None,
    out: RGBImage | None = None,
) -> RGBImage:  # [H, W, 3]
    """Draw a result over its frame: translucent masks, contours, and a tag `class #id score` per instance.

    A track id has the same colour in every frame and video. Contours have a dark edge and tags are filled, so that both
    are visible on any background. Tags stay inside the frame and avoid each other.

    Args:
        frame: [H, W, 3] uint8 RGB image; not modified.
        result: result to draw, in pixels of this frame.
        boxes: draw boxes as well as masks.
        scores: write scores in the tags; False for annotations, which have none.
        caption: one line along the lower edge, such as `untrained weights`; None for no caption.
        out: [H, W, 3] uint8 contiguous image to draw into, which saves memory allocation in a stream; None for a new
            one.

    Returns:
        `out`, or a new [H, W, 3] uint8 RGB image.

    Raises:
        FrameError: the frame is no RGB image, or has another size than the result.
        MissingDependencyError: OpenCV is not installed.
    """
    cv2 = load_cv2("drawing results")
    frame = check_frame(frame)
    canvas: RGBImage = np.empty_like(frame) if out is None else out
    np.copyto(canvas, frame)
    height, width = canvas.shape[:2]
    instances = _instances(cv2, result, height, width, scores)
    line = max(1, round(min(height, width) / 240))
    # Draw higher scores on top, and all contours above all fills, so that every contour is visible.
    by_score = [instances[position] for position in np.argsort(result.scores, kind="stable")]
    for instance in by_score:
        _fill(cv2, canvas, instance)
    for instance in by_score:
        _outline(cv2, canvas, instance, line, boxes)
    writer = TagWriter(cv2, canvas)
    if caption:
        writer.banner(caption)
    # Place tags in the order of ids, not of scores: a tag should not move when two scores change their order.
    for position in np.argsort(result.ids, kind="stable"):
        instance = instances[position]
        writer.tag(instance.text, instance.colour, instance.extent or instance.box)
    return canvas


def _instances(cv2: Any, result: DrawableResult, height: int, width: int, scores: bool) -> list[_Instance]:
    if result.size != (height, width):
        raise FrameError(
            f"frame and result have different sizes: {height}x{width} and {result.size[0]}x{result.size[1]}; draw a "
            "result over its own frame"
        )
    instances = []
    corners = np.nan_to_num(result.boxes_xyxy).clip(0, [width, height, width, height]).round().astype(int)
    for i, crop in enumerate(result.crops):
        name = class_name(int(result.labels[i]), result.class_names)
        mask, extent = _tight(cv2, crop)
        left, top, right, bottom = (int(value) for value in corners[i])
        instances.append(
            _Instance(
                text=f"{name} #{int(result.ids[i])}" + (f" {float(result.scores[i]):.2f}" if scores else ""),
                colour=id_colour(int(result.ids[i])),
                box=(left, top, max(right, left + 1), max(bottom, top + 1)),
                mask=mask,
                extent=extent,
            )
        )
    return instances


def _tight(cv2: Any, crop: MaskCrop) -> tuple[NDArray[np.uint8], Rectangle | None]:
    """Return the pixels of a mask, 0 or 1, in the smallest box that contains it, and this box."""
    pixels = np.ascontiguousarray(crop.pixels).view(np.uint8)
    x, y, w, h = cv2.boundingRect(pixels) if pixels.size else (0, 0, 0, 0)
    extent = (crop.left + x, crop.top + y, crop.left + x + w, crop.top + y + h) if w and h else None
    return pixels[y : y + h, x : x + w], extent


def _fill(cv2: Any, canvas: RGBImage, instance: _Instance) -> None:
    if instance.extent is None:
        return
    left, top, right, bottom = instance.extent
    area = canvas[top:bottom, left:right]
    # A look-up table per channel is faster than blending with a second image.
    ramp = np.arange(256, dtype=np.float32)[:, None] * (1 - _FILL)
    table = (ramp + np.array(instance.colour, np.float32) * _FILL).round().astype(np.uint8)
    cv2.copyTo(cv2.LUT(area, table[None]), instance.mask, area)


def _outline(cv2: Any, canvas: RGBImage, instance: _Instance, line: int, boxes: bool) -> None:
    if instance.extent is not None:
        left, top, _, _ = instance.extent
        traced, _ = cv2.findContours(
            instance.mask, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE, offset=(left, top)
        )
        # Fewer, longer segments are drawn faster, and they hide the steps between pixels; they may differ from the mask
        # by 0.8 pixels.
        contours = [cv2.approxPolyDP(contour, 0.8, True) for contour in traced]
        cv2.drawContours(canvas, contours, -1, _SHADOW, line + 2, cv2.LINE_AA)
        cv2.drawContours(canvas, contours, -1, instance.colour, line, cv2.LINE_AA)
    if boxes or instance.extent is None:
        left, top, right, bottom = instance.box
        for colour, thickness in ((_SHADOW, line + 2), (instance.colour, line)):
            cv2.rectangle(canvas, (left, top), (right - 1, bottom - 1), colour, thickness)
