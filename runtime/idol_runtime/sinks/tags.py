"""Text on a frame: filled tags that stay inside it and off each other, and a caption along its lower edge."""

from typing import Any, TypeAlias

from idol_runtime.frames import RGBImage
from idol_runtime.sinks.palette import text_colour

__all__ = ["Rectangle", "TagWriter"]

Rectangle: TypeAlias = tuple[int, int, int, int]  # left, top, right, bottom in pixels; the last two exclusive

_TEXT_SHARE = 0.026  # of the frame's shorter side: the height of a capital
_TEXT_PIXELS = (10, 40)


def _overlap(a: Rectangle, b: Rectangle) -> int:
    """Pixels that two rectangles share."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    return max(width, 0) * max(height, 0)


class TagWriter:
    """Places text on one canvas, and remembers where.

    Args:
        cv2: the module.
        canvas: [H, W, 3] uint8 RGB, written in place.
    """

    def __init__(self, cv2: Any, canvas: RGBImage) -> None:
        self._cv2 = cv2
        self._canvas = canvas
        self._height, self._width = canvas.shape[:2]
        smallest, largest = _TEXT_PIXELS
        self._pixels: int = min(max(round(min(canvas.shape[:2]) * _TEXT_SHARE), smallest), largest)
        self._font = cv2.FONT_HERSHEY_DUPLEX
        self._scale = cv2.getFontScaleFromHeight(self._font, self._pixels, 1)
        # OpenCV 5 writes with other letters than OpenCV 4, and each says how far they reach below the line.
        self._descent: int = cv2.getTextSize("g", self._font, self._scale, 1)[1]
        self._margin = max(2, self._pixels // 3)
        self._taken: list[Rectangle] = []

    def tag(self, text: str, colour: tuple[int, int, int], around: Rectangle) -> None:
        """Write text on a filled tag near a rectangle, where it hides no other tag if there is room."""
        text = self._shortened(text)
        width, height = self._tag_size(text)
        if not text or height > self._height:
            return
        place = self._free_place(width, height, around)
        self._taken.append(place)
        left, top, right, bottom = place
        ink = text_colour(colour)
        edge = (16, 16, 16) if ink == (0, 0, 0) else (240, 240, 240)
        self._cv2.rectangle(self._canvas, (left, top), (right - 1, bottom - 1), colour, -1)
        self._cv2.rectangle(self._canvas, (left, top), (right - 1, bottom - 1), edge, 1)
        self._put(text, left, bottom, ink)

    def banner(self, text: str) -> None:
        """Write one line on a dark band along the lower edge; tags keep off it."""
        text = self._shortened(text)
        _, height = self._tag_size(text)
        if not text or height > self._height:
            return
        top = self._height - height
        band = self._canvas[top:]
        band[:] = band // 4
        self._taken.append((0, top, self._width, self._height))
        self._put(text, self._margin, self._height, (255, 255, 255))

    def _put(self, text: str, left: int, bottom: int, ink: tuple[int, int, int]) -> None:
        origin = left + self._margin, bottom - self._margin - self._descent
        self._cv2.putText(self._canvas, text, origin, self._font, self._scale, ink, 1, self._cv2.LINE_AA)

    def _text_width(self, text: str) -> int:
        size, _ = self._cv2.getTextSize(text, self._font, self._scale, 1)
        return int(size[0])

    def _tag_size(self, text: str) -> tuple[int, int]:
        width = self._text_width(text) + 2 * self._margin
        return width, self._pixels + self._descent + 2 * self._margin

    def _shortened(self, text: str) -> str:
        """The text, cut so that its tag fits the frame's width; empty where nothing fits."""
        room = self._width - 2 * self._margin
        if self._text_width(text) <= room:
            return text
        while text and self._text_width(text + "..") > room:
            text = text[:-1]
        return text + ".." if text else ""

    def _free_place(self, width: int, height: int, around: Rectangle) -> Rectangle:
        left, top, right, bottom = around
        rows = [top - height, top, bottom, bottom - height]
        # Then further and further up and down, until a row of the frame is free.
        rows += [
            top + sign * step * height for step in range(2, 1 + self._height // height) for sign in (-1, 1)
        ]
        best, least = (0, 0, width, height), width * height + 1
        for row in rows:
            for column in (left, right - width, left - width, right):
                x = min(max(column, 0), self._width - width)
                y = min(max(row, 0), self._height - height)
                place = (x, y, x + width, y + height)
                hidden = sum(_overlap(place, other) for other in self._taken)
                if not hidden:
                    return place
                if hidden < least:
                    best, least = place, hidden
        return best
