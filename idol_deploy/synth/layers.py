"""Pictures that move: what is drawn of an instance, of its shadow and of a thing in the way.

A picture's own coordinates are in its long sides, (0, 0) in its middle; the frame's in short sides of the frame, (0, 0)
in its middle. T: frames; h, w: height and width of a picture in pixels.
"""

import functools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from idol_deploy.synth.identities import recolour
from idol_deploy.synth.opencv import opencv

__all__ = ["Layer", "Paint", "Placed", "Placer", "Skin"]

Array = NDArray[np.float64]
Pixels = NDArray[np.uint8]

_PAD = 2  # transparent pixels around a picture, so that its outline is smooth when it is turned
_LEVELS = 4
_LONGEST = 0.2  # smear, in short sides of the frame
_SHORTEST = 1.5  # pixels
_SMEAR_STEPS = 4  # to a pixel
_SHADE = 0.4  # opacity of a shadow: below ½, so that it is part of no mask


@dataclass(frozen=True, eq=False)
class Paint:
    """How a picture is recoloured; see `recolour`."""

    turn: float = 0.0
    tint: Array | None = None
    spots: Array | None = None


@dataclass(frozen=True, eq=False)
class _Level:
    """A picture at one resolution.

    Attributes:
        pixels: [h, w, 4] premultiplied RGBA, with the padding.
        alpha: [h, w] the last channel of it.
        step: [2] x, y of a pixel in the picture's own coordinates.
        start: [2] x, y of the first pixel in them.
        fine: pixels per long side.
    """

    pixels: Pixels
    alpha: Pixels
    step: Array
    start: Array
    fine: float


class Skin:
    """The pictures of an instance, made when they are first drawn, each at several resolutions."""

    def __init__(
        self, pictures: tuple[Pixels, ...], paint: Paint | None = None, *, shadow: bool = False
    ) -> None:
        """Takes the pictures.

        Args:
            pictures: [h, w, 4] each, RGBA, not premultiplied.
            paint: how to recolour them.
            shadow: what they throw on the ground instead.
        """
        self._pictures = pictures
        self._paint = paint
        self._shadow = shadow
        self._made: dict[int, list[_Level]] = {}

    def __len__(self) -> int:
        return len(self._pictures)

    def level(self, picture: int, pixels: float) -> _Level:
        """The coarsest level that has so many pixels along its long side; the finest if none has."""
        if picture not in self._made:
            self._made[picture] = self._levels(self._pictures[picture])
        levels = self._made[picture]
        return next((level for level in reversed(levels) if level.fine >= pixels), levels[0])

    @functools.cached_property
    def reach(self) -> Array:
        """[pictures, 2] half the width and height of each, with all that is drawn, in its long side."""
        sides = np.array([picture.shape[1::-1] for picture in self._pictures])
        halves: Array = sides / (2 * sides.max(1, keepdims=True)) + (1 / 8 if self._shadow else 0)
        return halves

    def areas(self) -> Array:
        """How much each picture covers, in squares of its long side."""
        covered = [np.count_nonzero(p[..., 3] >= 128) / max(p.shape) ** 2 for p in self._pictures]
        return np.array(covered)

    def _levels(self, picture: Pixels) -> list[_Level]:
        cv2 = opencv()
        if self._paint is not None and not self._shadow:
            tint = np.ones(3) if self._paint.tint is None else self._paint.tint
            picture = recolour(picture, self._paint.turn, tint, self._paint.spots)
        height, width = picture.shape[:2]
        long = max(height, width)
        alpha = picture[..., 3:].astype(np.uint16)
        pixels = np.dstack([(picture[..., :3] * alpha + 127) // 255, alpha]).astype(np.uint8)
        pad = _PAD
        if self._shadow:
            pixels, pad = _shadow(pixels[..., 3])
        levels: list[_Level] = []
        for i in range(_LEVELS):
            bare = pixels if self._shadow else cv2.copyMakeBorder(pixels, *[pad] * 4, cv2.BORDER_CONSTANT)
            inner_h, inner_w = bare.shape[0] - 2 * pad, bare.shape[1] - 2 * pad
            step = np.array([width / inner_w, height / inner_h]) / long
            start = (0.5 - np.array(bare.shape[1::-1]) / 2) * step
            levels.append(
                _Level(bare, np.ascontiguousarray(bare[..., 3]), step, start, max(inner_h, inner_w))
            )
            if self._shadow or min(inner_h, inner_w) < 12 or i == _LEVELS - 1:
                break
            size = (-(-pixels.shape[1] // 2), -(-pixels.shape[0] // 2))
            pixels = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
        return levels


def _shadow(alpha: Pixels) -> tuple[Pixels, int]:
    """Soft black of the same outline, and by how many pixels it is wider on each side; an eighth of the long side."""
    cv2 = opencv()
    pad = 4
    share = 8 * pad / max(alpha.shape)
    size = [max(round(side * share), 1) for side in alpha.shape[::-1]]
    small = cv2.resize(alpha, size, interpolation=cv2.INTER_AREA)
    soft = cv2.GaussianBlur(cv2.copyMakeBorder(small, *[pad] * 4, cv2.BORDER_CONSTANT), (0, 0), pad / 2.5)
    pixels = np.zeros((*soft.shape, 4), np.uint8)
    pixels[..., 3] = soft * _SHADE
    return pixels, pad


@dataclass(frozen=True, eq=False)
class Layer:
    """Something that is drawn in every frame.

    Attributes:
        skin: its pictures.
        which: [T] the picture of each frame.
        matrices: [T, 2, 3] from the picture's coordinates to the frame's.
        depth: higher is drawn later.
        instance: 1 … n; 0: none; -1: a shadow, which hides nothing.
    """

    skin: Skin
    which: NDArray[np.intp]
    matrices: Array
    depth: float
    instance: int

    @functools.cached_property
    def speeds(self) -> Array:
        """[T, 2] short sides per frame. Of the steps before and after the smaller: a camera's jump blurs nothing."""
        places = self.matrices[..., 2]
        if len(places) == 1:
            return np.zeros_like(places)
        steps = np.diff(places, axis=0)
        before, after = np.concatenate([steps[:1], steps]), np.concatenate([steps, steps[-1:]])
        smaller = np.linalg.norm(before, axis=1) < np.linalg.norm(after, axis=1)
        return np.where(smaller[:, None], before, after)


@dataclass(frozen=True, eq=False)
class Placed:
    """A layer in one frame.

    Attributes:
        rows: of the frame.
        columns: of the frame.
        pixels: of those: [h, w, 4] premultiplied, or [h, w] alpha alone.
    """

    rows: slice
    columns: slice
    pixels: Pixels


class Placer:
    """Draws a layer where it is; everything that is known beforehand is worked out once."""

    def __init__(self, layer: Layer, size: tuple[int, int], exposure: float = 0.0) -> None:
        """Takes a layer.

        Args:
            layer: what to draw.
            size: (H, W) of the frame.
            exposure: share of the time between frames during which it smears.
        """
        self.layer = layer
        short, edge = min(size), np.array([size[1], size[0]])
        linear = short * layer.matrices[..., :2]
        self._linear = linear
        self._middle = short * layer.matrices[..., 2] + edge / 2 - 0.5
        self._fine = np.sqrt(np.abs(np.linalg.det(linear)))
        self._smear = np.round(_SMEAR_STEPS * self._smears(exposure, short)).astype(int)
        smear = np.abs(self._smear) / _SMEAR_STEPS
        # What smears into the frame from outside has to be drawn as well.
        self._margin = np.where(np.hypot(*smear.T) < _SHORTEST, 0, np.ceil(smear.max(1) / 2)).astype(int)
        reach = (np.abs(linear) @ layer.skin.reach[layer.which][..., None])[..., 0] + smear / 2 + 1.5
        self._low = np.maximum(np.floor(self._middle - reach), 0).astype(int)
        self._high = np.minimum(np.ceil(self._middle + reach) + 1, edge).astype(int)

    def place(self, t: int, *, outline: bool = False) -> Placed | None:
        """Draw it in frame `t`, or only its alpha; None where nothing of it is in the frame."""
        (left, top), (right, bottom) = self._low[t].tolist(), self._high[t].tolist()
        if left >= right or top >= bottom:
            return None
        margin = int(self._margin[t])
        level = self.layer.skin.level(int(self.layer.which[t]), float(self._fine[t]))
        matrix = np.empty((2, 3))
        matrix[:, :2] = self._linear[t] * level.step
        matrix[:, 2] = self._linear[t] @ level.start + self._middle[t] - (left - margin, top - margin)
        extent = (right - left + 2 * margin, bottom - top + 2 * margin)
        cv2 = opencv()
        drawn = cv2.warpAffine(
            level.alpha if outline else level.pixels, matrix, extent, flags=cv2.INTER_LINEAR
        )
        if margin:
            line = _line(*self._smear[t].tolist())
            drawn = cv2.filter2D(drawn, -1, line, borderType=cv2.BORDER_CONSTANT)[
                margin:-margin, margin:-margin
            ]
        return Placed(slice(top, bottom), slice(left, right), drawn)

    def _smears(self, exposure: float, short: int) -> Array:
        """[T, 2] in pixels, and none longer than the longest."""
        smears = self.layer.speeds * (short * exposure)
        length = np.maximum(np.linalg.norm(smears, axis=1, keepdims=True), 1e-9)
        bounded: Array = smears * np.minimum(1, _LONGEST * short / length)
        return bounded


@functools.lru_cache(maxsize=4096)
def _line(across: int, down: int) -> NDArray[np.float32]:
    """A filter that smears by so many quarter pixels, symmetric about its middle."""
    smear = np.array([down, across]) / _SMEAR_STEPS
    half = int(np.ceil(np.abs(smear).max() / 2))
    kernel = np.zeros((2 * half + 2, 2 * half + 2))
    at = np.linspace(-0.5, 0.5, 4 * half + 3)[:, None] * smear + half
    cell = np.floor(at).astype(int)
    part = at - cell
    for dy in (0, 1):
        for dx in (0, 1):
            weight = np.abs(1 - dy - part[:, 0]) * np.abs(1 - dx - part[:, 1])
            np.add.at(kernel, (cell[:, 0] + dy, cell[:, 1] + dx), weight)
    inner = kernel[: 2 * half + 1, : 2 * half + 1]
    line: NDArray[np.float32] = (inner / inner.sum()).astype(np.float32)
    return line
