"""Text on a frame: filled tags that avoid each other, and a caption along the lower edge."""

from typing import Any, TypeAlias

from idol_runtime.frames import RGBImage
from idol_runtime.sinks.palette import text_colour

__all__ = ["Rectangle", "TagWriter"]

Rectangle: TypeAlias = tuple[int, int, int, int]  # left, top, right, bottom in pixels; the last two exclusive


def _overlap(a: Rectangle, b: Rectangle) -> int:
    """Return the number of pixels that two rectangles share."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    return max(width, 0) * max(height, 0)


class TagWriter:
    """A writer of text on one canvas that remembers which places are occupied.

    Args:
        cv2: module `cv2`.
        canvas: [H, W, 3] uint8 RGB image, modified in place.
    """

    def __init__(self, cv2: Any, canvas: RGBImage) -> None:
        self._cv2 = cv2
        self._canvas = canvas
        self._height, self._width = canvas.shape[:2]
        # Height of a capital letter: a share of the frame's shorter side, from 10 to 40 pixels.
        self._pixels: int = min(max(round(min(canvas.shape[:2]) * 0.026), 10), 40)
        self._font = cv2.FONT_HERSHEY_DUPLEX
        self._scale = cv2.getFontScaleFromHeight(self._font, self._pixels, 1)
        # Depth of letters below the line; the fonts of OpenCV 4 and OpenCV 5 differ.
        self._descent: int = cv2.getTextSize("g", self._font, self._scale, 1)[1]
        self._margin = max(2, self._pixels // 3)
        self._occupied: list[Rectangle] = []

    def tag(self, text: str, colour: tuple[int, int, int], around: Rectangle) -> None:
        """Write text on a filled tag near a rectangle, where it covers no other tag if there is room."""
        text = self._shortened(text)
        width, height = self._tag_size(text)
        if not text or height > self._height:
            return
        place = self._free_place(width, height, around)
        self._occupied.append(place)
        left, top, right, bottom = place
        ink = text_colour(colour)
        edge = (16, 16, 16) if ink == (0, 0, 0) else (240, 240, 240)
        self._cv2.rectangle(self._canvas, (left, top), (right - 1, bottom - 1), colour, -1)
        self._cv2.rectangle(self._canvas, (left, top), (right - 1, bottom - 1), edge, 1)
        self._put(text, left, bottom, ink)

    def banner(self, text: str) -> None:
        """Write one line on a dark band along the lower edge; tags avoid this band."""
        text = self._shortened(text)
        _, height = self._tag_size(text)
        if not text or height > self._height:
            return
        top = self._height - height
        band = self._canvas[top:]
        band[:] = band // 4
        self._occupied.append((0, top, self._width, self._height))
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
        """Return the text, cut so that its tag fits the frame's width; empty if nothing fits."""
        room = self._width - 2 * self._margin
        if self._text_width(text) <= room:
            return text
        while text and self._text_width(text + "..") > room:
            text = text[:-1]
        return text + ".." if text else ""

    def _free_place(self, width: int, height: int, around: Rectangle) -> Rectangle:
        left, top, right, bottom = around
        rows = [top - height, top, bottom, bottom - height]
        # Then rows further up and down, until one is free.
        rows += [
            top + sign * step * height for step in range(2, 1 + self._height // height) for sign in (-1, 1)
        ]
        best, least = (0, 0, width, height), width * height + 1
        for row in rows:
            for column in (left, right - width, left - width, right):
                x = min(max(column, 0), self._width - width)
                y = min(max(row, 0), self._height - height)
                place = (x, y, x + width, y + height)
                covered = sum(_overlap(place, other) for other in self._occupied)
                if not covered:
                    return place
                if covered < least:
                    best, least = place, covered
        return best
