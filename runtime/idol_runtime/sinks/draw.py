"""Annotated frames: what was found, where, and which it is.

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

_FILL = 0.42  # share of the colour in a mask's area
_SHADOW = (16, 16, 16)
_STAIRS = 0.8  # pixels that a drawn contour may leave its mask by


class DrawableResult(Protocol):
    """What drawing and writing need of a frame's result."""

    @property
    def ids(self) -> NDArray[np.int64]:
        """[n] track identities, from 0."""

    @property
    def labels(self) -> NDArray[np.int64]:
        """[n] indices into `class_names`."""

    @property
    def scores(self) -> NDArray[np.float32]:
        """[n] in 0..1."""

    @property
    def boxes_xyxy(self) -> NDArray[np.float32]:
        """[n, 4] in pixels of the frame."""

    @property
    def crops(self) -> Sequence[MaskCrop]:
        """The masks, each in its box; n of them."""

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) of the frame."""

    @property
    def class_names(self) -> Sequence[str]:
        """A name per label."""


@dataclass(frozen=True)
class _Instance:
    text: str
    colour: tuple[int, int, int]
    box: Rectangle
    mask: NDArray[np.uint8]  # 0 or 1, within its extent
    extent: Rectangle | None  # None: the mask is empty


def class_name(label: int, class_names: Sequence[str]) -> str:
    """The name of a label; `class 7` where the list does not reach it."""
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
    """Draw a result over its frame: translucent masks, contours, and a tag `class #id score` for each.

    A colour belongs to an id, in every frame and video. Contours carry a dark edge and tags are filled, so
    that both read on any background; tags stay inside the frame and off each other.

    Args:
        frame: [H, W, 3] uint8 RGB; it is left as it is.
        result: what to draw, in pixels of this frame.
        boxes: draw boxes as well.
        scores: write them; annotations have none.
        caption: one line along the lower edge, such as `untrained weights`.
        out: [H, W, 3] uint8, contiguous; drawn into and returned. A stream's frames need not each fetch memory.

    Returns:
        `out`, or a new [H, W, 3] uint8 RGB image.

    Raises:
        FrameError: not an RGB frame, or one of another size than the result's.
        MissingDependencyError: OpenCV is not installed.
    """
    cv2 = load_cv2("drawing results")
    frame = check_frame(frame)
    canvas: RGBImage = np.empty_like(frame) if out is None else out
    np.copyto(canvas, frame)
    height, width = canvas.shape[:2]
    instances = _instances(cv2, result, height, width, scores)
    line = max(1, round(min(height, width) / 240))
    # The higher score on top; all contours above all fills, so that none is tinted away.
    by_score = [instances[position] for position in np.argsort(result.scores, kind="stable")]
    for instance in by_score:
        _fill(cv2, canvas, instance)
    for instance in by_score:
        _outline(cv2, canvas, instance, line, boxes)
    # In the order of identities, not of scores: a tag should not jump when two scores change places.
    by_id = [instances[position] for position in np.argsort(result.ids, kind="stable")]
    _write(TagWriter(cv2, canvas), by_id, caption)
    return canvas


def _write(writer: TagWriter, instances: list[_Instance], caption: str | None) -> None:
    if caption:
        writer.banner(caption)
    for instance in instances:
        writer.tag(instance.text, instance.colour, instance.extent or instance.box)


def _instances(cv2: Any, result: DrawableResult, height: int, width: int, scores: bool) -> list[_Instance]:
    if result.size != (height, width):
        raise FrameError(
            f"the result is of a frame of {result.size[0]}x{result.size[1]} and this one is {height}x{width}; "
            "draw a result over the frame it came from"
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
    """The pixels of a mask, 0 or 1, in the smallest box that holds it, and where that lies."""
    pixels = np.ascontiguousarray(crop.pixels).view(np.uint8)
    x, y, w, h = cv2.boundingRect(pixels) if pixels.size else (0, 0, 0, 0)
    extent = (crop.left + x, crop.top + y, crop.left + x + w, crop.top + y + h) if w and h else None
    return pixels[y : y + h, x : x + w], extent


def _fill(cv2: Any, canvas: RGBImage, instance: _Instance) -> None:
    if instance.extent is None:
        return
    left, top, right, bottom = instance.extent
    area = canvas[top:bottom, left:right]
    # A translucent fill is one look-up per channel: cheaper than blending a second image.
    ramp = np.arange(256, dtype=np.float32)[:, None] * (1 - _FILL)
    table = (ramp + np.array(instance.colour, np.float32) * _FILL).round().astype(np.uint8)
    cv2.copyTo(cv2.LUT(area, table[None]), instance.mask, area)


def _outline(cv2: Any, canvas: RGBImage, instance: _Instance, line: int, boxes: bool) -> None:
    if instance.extent is not None:
        left, top, _, _ = instance.extent
        traced, _ = cv2.findContours(
            instance.mask, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE, offset=(left, top)
        )
        # Fewer, longer segments draw faster, and the stairs of the pixels go.
        contours = [cv2.approxPolyDP(contour, _STAIRS, True) for contour in traced]
        cv2.drawContours(canvas, contours, -1, _SHADOW, line + 2, cv2.LINE_AA)
        cv2.drawContours(canvas, contours, -1, instance.colour, line, cv2.LINE_AA)
    if boxes or instance.extent is None:
        left, top, right, bottom = instance.box
        for colour, thickness in ((_SHADOW, line + 2), (instance.colour, line)):
            cv2.rectangle(canvas, (left, top), (right - 1, bottom - 1), colour, thickness)
