"""Annotated pictures and thumbnails, drawn and encoded once for all clients.

One worker thread draws, so that the event loop stays free; of the frames that wait it draws the newest of each stream.
"""

import asyncio
import logging
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from idol_runtime.frames import RGBImage
from idol_runtime.optional import load_cv2
from idol_runtime.preprocess import Placement
from idol_runtime.serve.messages import FrameMessage, Picture
from idol_runtime.serve.stream_view import Shown
from idol_runtime.sinks.draw import draw
from idol_runtime.tracking.results import FrameResult
from idol_runtime.tracking.rle import RLE, encode_crops

__all__ = ["Pictures", "draw_message"]

_QUALITY, _THUMBNAIL = 80, 96

_log = logging.getLogger(__name__)


class Pictures:
    """A worker that draws pictures.

    Args:
        class_names: name of every class.
        show: receives each drawn frame, in the event loop.
    """

    def __init__(self, class_names: Sequence[str], show: Callable[[Shown], None]) -> None:
        self._class_names, self._show = tuple(class_names), show
        self._waiting: dict[str, tuple[FrameMessage, Collection[int]]] = {}
        self._executor = ThreadPoolExecutor(1, "idol-pictures")
        self._task: asyncio.Task[None] | None = None
        self._failed = False

    def offer(self, message: FrameMessage, thumbnails: Collection[int]) -> None:
        """Draw a frame soon, unless a newer one of its stream is offered before.

        Args:
            message: frame with its picture.
            thumbnails: tracks that need a thumbnail.
        """
        self._waiting[message.stream] = message, thumbnails
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._draw())

    async def masks(self, message: FrameMessage) -> list[RLE]:
        """Return the masks of a frame at its full size, as compressed RLE."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._executor, _encode_masks, message, self._class_names)

    async def _draw(self) -> None:
        loop = asyncio.get_running_loop()
        while self._waiting:
            message, thumbnails = self._waiting.pop(next(iter(self._waiting)))
            try:
                shown = await loop.run_in_executor(
                    self._executor, draw_message, message, self._class_names, thumbnails
                )
            except Exception:  # noqa: BLE001 - logged; clients receive frames without pictures
                if not self._failed:
                    _log.exception("%s: a picture cannot be drawn", message.stream)
                self._failed = True
            else:
                self._show(shown)


def draw_message(message: FrameMessage, class_names: tuple[str, ...], thumbnails: Collection[int]) -> Shown:
    """Draw a frame with its masks, and cut out thumbnails of some of its tracks.

    Raises:
        MissingDependencyError: OpenCV is not installed.
    """
    cv2 = load_cv2("drawing results")
    cv2.setNumThreads(1)
    picture = message.picture
    assert picture is not None
    image = np.frombuffer(picture.rgb, np.uint8).reshape(*picture.size, 3)
    result = _result(message, picture, picture.size, class_names)
    jpeg = _encode(cv2, draw(image, result))
    small = {}
    for track_id, box in zip(message.ids, result.boxes_xyxy, strict=True):
        if track_id in thumbnails and (cut := _cut(image, box)).size:
            scale = min(1.0, _THUMBNAIL / max(cut.shape[:2]))
            size = max(round(cut.shape[1] * scale), 1), max(round(cut.shape[0] * scale), 1)
            small[track_id] = _encode(cv2, cv2.resize(cut, size, interpolation=cv2.INTER_AREA))
    # The masks alone, not the message with the pixels that they are part of.
    masks = msgspec.structs.replace(picture, rgb=memoryview(b""), masks=memoryview(bytes(picture.masks)))
    return Shown(msgspec.structs.replace(message, picture=masks), jpeg, small)


def _encode_masks(message: FrameMessage, class_names: tuple[str, ...]) -> list[RLE]:
    """Return the masks of a frame at its full size, as compressed RLE."""
    assert message.picture is not None
    return encode_crops(_result(message, message.picture, message.size, class_names).crops, message.size)


def _result(
    message: FrameMessage, picture: Picture, size: tuple[int, int], class_names: tuple[str, ...]
) -> FrameResult:
    """Return the result of a frame, in pixels of an image of another size."""
    n = len(message.ids)
    scale = np.array([size[1] / message.size[1], size[0] / message.size[0]] * 2, np.float32)
    return FrameResult(
        index=message.index,
        ids=np.array(message.ids, np.int64),
        labels=np.array(message.labels, np.int64),
        scores=np.array(message.scores, np.float32),
        class_scores=np.zeros((n, 0), np.float32),
        boxes_xyxy=np.array(message.boxes_xyxy, np.float32).reshape(n, 4) * scale,
        mask_logits=np.frombuffer(picture.masks, np.float32).reshape(n, *picture.mask_size),
        placement=Placement(frame=size, network=picture.network, content=picture.content),
        class_names=class_names,
    )


def _cut(image: RGBImage, box: NDArray[np.float32]) -> RGBImage:
    """Return the part of an image around a box, with a margin of a tenth."""
    left, top, right, bottom = np.nan_to_num(box)
    margin_x, margin_y = (right - left) / 10, (bottom - top) / 10
    height, width = image.shape[:2]
    rows = slice(int(max(top - margin_y, 0)), int(min(bottom + margin_y, height)) + 1)
    columns = slice(int(max(left - margin_x, 0)), int(min(right + margin_x, width)) + 1)
    return image[rows, columns]


def _encode(cv2: Any, image: RGBImage) -> bytes:
    _, jpeg = cv2.imencode(
        ".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, _QUALITY]
    )
    return bytes(jpeg)
