"""Moving pictures: the drawings of instances, their shadows and occluders.

Picture coordinates are in long sides of the picture, frame coordinates in short sides of the frame. (0, 0) is in the
middle of either. T: frames; h, w: height and width of a picture in pixels.
"""

import functools
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from idol_deploy.synth.identities import recolour
from idol_deploy.synth.textures import opencv

__all__ = ["Layer", "Paint", "Placed", "Placer", "Skin"]

Array = NDArray[np.float64]
Pixels = NDArray[np.uint8]

_PAD = 2  # transparent pixels around a picture, for a smooth outline after a rotation
_LEVELS = 4
_SHADOW_PAD = 4  # pixels by which a shadow is wider than its picture on each side: an eighth of the long side
_SHADE = 0.4  # opacity of a shadow; below a half, so that it is part of no mask
_LONGEST = 0.2  # motion blur, in short sides of the frame
_SHORTEST = 1.5  # motion blur, in pixels
_SMEAR_STEPS = 4  # steps of motion blur per pixel


@dataclass(frozen=True, eq=False)
class Paint:
    """The colours of a picture; see `recolour`."""

    turn: float = 0.0
    tint: Array = field(default_factory=lambda: np.ones(3))
    spots: Array | None = None


@dataclass(frozen=True, eq=False)
class _Level:
    """A picture at one resolution.

    Attributes:
        pixels: [h, w, 4] premultiplied RGBA, with the padding.
        alpha: [h, w] its alpha channel, contiguous.
        step: [2] width and height of a pixel in picture coordinates.
        start: [2] position of the first pixel in picture coordinates.
        fine: pixels per long side.
    """

    pixels: Pixels
    alpha: Pixels
    step: Array
    start: Array
    fine: float


class Skin:
    """The pictures of a layer, each at several resolutions, prepared when they are first drawn."""

    def __init__(
        self, pictures: tuple[Pixels, ...], paint: Paint | None = None, *, shadow: bool = False
    ) -> None:
        """Store the pictures.

        Args:
            pictures: [h, w, 4] each, RGBA, not premultiplied.
            paint: new colours; None keeps those of the pictures.
            shadow: draw the shadows of the pictures instead.
        """
        self._pictures = pictures
        self._paint = paint
        self._shadow = shadow
        self._levels: dict[int, list[_Level]] = {}

    def level(self, picture: int, pixels: float) -> _Level:
        """Return the coarsest level with at least `pixels` along its long side, else the finest."""
        if picture not in self._levels:
            self._levels[picture] = self._prepare(self._pictures[picture])
        levels = self._levels[picture]
        return next((level for level in reversed(levels) if level.fine >= pixels), levels[0])

    @functools.cached_property
    def reach(self) -> Array:
        """Half the width and height of each drawn picture, [pictures, 2], in its long side."""
        sides = np.array([picture.shape[1::-1] for picture in self._pictures])
        return np.asarray(sides / (2 * sides.max(1, keepdims=True)) + (1 / 8 if self._shadow else 0))

    def areas(self) -> Array:
        """Return the covered area of each picture, [pictures], in squares of its long side."""
        return np.array([np.count_nonzero(p[..., 3] >= 128) / max(p.shape) ** 2 for p in self._pictures])

    def _prepare(self, picture: Pixels) -> list[_Level]:
        cv2 = opencv()
        if self._shadow:
            return [_level(picture, _shadow(picture[..., 3]), _SHADOW_PAD)]
        if self._paint is not None:
            picture = recolour(picture, self._paint.turn, self._paint.tint, self._paint.spots)
        alpha = picture[..., 3:].astype(np.uint16)
        pixels = np.dstack([(picture[..., :3] * alpha + 127) // 255, alpha]).astype(np.uint8)
        levels = []
        while True:
            padded = cv2.copyMakeBorder(pixels, *[_PAD] * 4, cv2.BORDER_CONSTANT)
            levels.append(_level(picture, padded, _PAD))
            height, width = pixels.shape[:2]
            if min(height, width) < 12 or len(levels) == _LEVELS:
                return levels
            size = (-(-width // 2), -(-height // 2))
            pixels = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)


def _level(picture: Pixels, pixels: Pixels, pad: int) -> _Level:
    """Return the level of a picture whose padded pixels are given."""
    sides, inner = np.array(picture.shape[1::-1]), np.array(pixels.shape[1::-1]) - 2 * pad
    step = sides / inner / max(sides)
    start = (0.5 - np.array(pixels.shape[1::-1]) / 2) * step
    return _Level(pixels, np.ascontiguousarray(pixels[..., 3]), step, start, float(max(inner)))


def _shadow(alpha: Pixels) -> Pixels:
    """Return a soft black picture with this outline, padded by `_SHADOW_PAD`."""
    cv2 = opencv()
    share = 8 * _SHADOW_PAD / max(alpha.shape)
    size = [max(round(side * share), 1) for side in alpha.shape[::-1]]
    small = cv2.resize(alpha, size, interpolation=cv2.INTER_AREA)
    padded = cv2.copyMakeBorder(small, *[_SHADOW_PAD] * 4, cv2.BORDER_CONSTANT)
    pixels = np.zeros((*padded.shape, 4), np.uint8)
    pixels[..., 3] = cv2.GaussianBlur(padded, (0, 0), _SHADOW_PAD / 2.5) * _SHADE
    return pixels


@dataclass(frozen=True, eq=False)
class Layer:
    """A picture, or a cycle of pictures, that is drawn in every frame.

    Attributes:
        skin: its pictures.
        which: [T] index of the picture of each frame.
        matrices: [T, 2, 3] affine maps from picture to frame coordinates.
        depth: drawing order; a higher value is drawn later.
        instance: number of the instance, 1 … n; 0: an occluder; -1: a shadow, which hides nothing.
    """

    skin: Skin
    which: NDArray[np.intp]
    matrices: Array
    depth: float
    instance: int

    @functools.cached_property
    def speeds(self) -> Array:
        """Motion per frame, [T, 2]: the smaller of the steps before and after, so that a camera jump blurs nothing."""
        places = self.matrices[..., 2]
        if len(places) == 1:
            return np.zeros_like(places)
        steps = np.diff(places, axis=0)
        before, after = np.concatenate([steps[:1], steps]), np.concatenate([steps, steps[-1:]])
        smaller = np.linalg.norm(before, axis=1) < np.linalg.norm(after, axis=1)
        return np.where(smaller[:, None], before, after)


@dataclass(frozen=True, eq=False)
class Placed:
    """The part of a layer that lies in one frame.

    Attributes:
        rows: rows of the frame.
        columns: columns of the frame.
        pixels: [h, w, 4] premultiplied RGBA of these, or [h, w] alpha alone.
    """

    rows: slice
    columns: slice
    pixels: Pixels


class Placer:
    """A layer with the pixel positions that are computed once for all frames."""

    def __init__(self, layer: Layer, size: tuple[int, int], exposure: float = 0.0) -> None:
        """Compute the positions of a layer.

        Args:
            layer: layer to draw.
            size: (H, W) of the frame.
            exposure: exposure time as a share of the time between frames; 0: no motion blur.
        """
        self.layer = layer
        short, edge = min(size), np.array([size[1], size[0]])
        self._linear = short * layer.matrices[..., :2]
        self._middle = short * layer.matrices[..., 2] + edge / 2 - 0.5
        self._fine = np.sqrt(np.abs(np.linalg.det(self._linear)))
        smears = layer.speeds * (short * exposure)
        length = np.maximum(np.linalg.norm(smears, axis=1, keepdims=True), 1e-9)
        smears = smears * np.minimum(1, _LONGEST * short / length)
        self._smear = np.round(_SMEAR_STEPS * smears).astype(int)
        smear = np.abs(self._smear) / _SMEAR_STEPS
        # The drawing has a margin, from which pixels outside the frame blur into it.
        self._margin = np.where(np.hypot(*smear.T) < _SHORTEST, 0, np.ceil(smear.max(1) / 2)).astype(int)
        reach = (np.abs(self._linear) @ layer.skin.reach[layer.which][..., None])[..., 0] + smear / 2 + 1.5
        self._low = np.maximum(np.floor(self._middle - reach), 0).astype(int)
        self._high = np.minimum(np.ceil(self._middle + reach) + 1, edge).astype(int)

    def place(self, t: int, *, outline: bool = False) -> Placed | None:
        """Draw the layer in frame `t`, or only its alpha; return None if it lies outside the frame."""
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
        pixels = level.alpha if outline else level.pixels
        drawn = cv2.warpAffine(pixels, matrix, extent, flags=cv2.INTER_LINEAR)
        if margin:
            line = _line(*self._smear[t].tolist())
            blurred = cv2.filter2D(drawn, -1, line, borderType=cv2.BORDER_CONSTANT)
            drawn = blurred[margin:-margin, margin:-margin]
        return Placed(slice(top, bottom), slice(left, right), drawn)


@functools.lru_cache(maxsize=4096)
def _line(across: int, down: int) -> NDArray[np.float32]:
    """Return a symmetric filter that blurs along a line, whose length is in quarters of a pixel."""
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
    return np.asarray(inner / inner.sum()).astype(np.float32)
