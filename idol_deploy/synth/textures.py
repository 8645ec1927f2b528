"""Computed pictures: noise, patterns, backgrounds and occluders; and OpenCV, which draws them.

H, W: height and width in pixels. Colours are RGB in 0 … 1 until a picture is finished.
"""

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from idol_runtime.optional import load_cv2

__all__ = ["OCCLUDERS", "background", "draw_occluder", "noise", "opencv", "pattern"]

Array = NDArray[np.float32]
_Size = tuple[int, int]
_Range = tuple[float, float]

# For each kind: the half sides of the upright rectangle that it hides completely, as a share of its own.
OCCLUDERS = {"wall": 0.97, "crate": 0.95, "bush": 0.6, "rock": 0.6, "fence": 0.0}


@functools.cache  # drawing a frame calls it dozens of times
def opencv() -> Any:
    """Import the module `cv2`.

    Raises:
        MissingDependencyError: OpenCV is not installed.
    """
    return load_cv2("drawing synthetic videos")


def noise(rng: np.random.Generator, size: _Size, cells: float, octaves: int = 3) -> Array:
    """Draw smooth noise, [H, W], in 0 … 1 with mean ½.

    Args:
        rng: source of randomness.
        size: (H, W).
        cells: cells of the coarsest octave along the short side.
        octaves: number of octaves; each is twice as fine and half as strong as the one before.
    """
    total, weight = np.zeros(size, np.float32), 0.0
    for octave in range(octaves):
        step = max(min(size) / (cells * 2**octave), 1.0)
        grid = rng.random((int(size[0] / step) + 3, int(size[1] / step) + 3), np.float32)
        total += opencv().resize(grid, size[::-1], interpolation=opencv().INTER_CUBIC) * 0.5**octave
        weight += 0.5**octave
    return _unit((total / weight - 0.5) * 1.6 + 0.5)


def pattern(rng: np.random.Generator, size: _Size) -> Array:
    """Draw stripes, rings, spots, checks or marble, [H, W], in 0 … 1."""
    y, x = _grid(size) / min(size)
    angle, waves = rng.uniform(0, np.pi), rng.uniform(2, 6)
    along = np.cos(angle) * x + np.sin(angle) * y
    across = np.cos(angle) * y - np.sin(angle) * x
    stripes = np.sin(2 * np.pi * waves * along)
    squares = stripes * np.sin(2 * np.pi * waves * across)
    kind = int(rng.integers(5))
    if kind == 0:
        field = stripes
    elif kind == 1:
        middle = rng.uniform(0.2, 0.8, 2)
        field = np.sin(2 * np.pi * waves * np.hypot(x - middle[0], y - middle[1]))
    elif kind == 2:
        field = squares * 2 - 0.3
    elif kind == 3:
        field = np.sign(squares)
    else:
        field = np.sin(2 * np.pi * (waves / 2 * along + 1.5 * noise(rng, size, 3)))
    return _unit(field * 2.5 + 0.5)


def background(rng: np.random.Generator, size: _Size) -> NDArray[np.uint8]:
    """Draw a background, [H, W, 3], of one of several kinds, with clutter that is no instance."""
    kinds = (_meadow, _room, _floor, _fog)
    image = kinds[int(rng.integers(len(kinds)))](rng, size)
    _scatter(rng, image, int(rng.integers(6, 30)))
    image *= 0.86 + 0.28 * noise(rng, size, 24, 2)[..., None]
    return (np.clip(image, 0, 1) * 255).astype(np.uint8)


def draw_occluder(rng: np.random.Generator, kind: str, size: _Size) -> NDArray[np.uint8]:
    """Draw an occluder, [H, W, 4] RGBA, not premultiplied; `kind` is a key of `OCCLUDERS`."""
    colour = _colour(rng, saturation=(0.15, 0.55), value=(0.25, 0.75))
    y, x = _grid(size)
    y, x = 2 * (y + 0.5) / size[0] - 1, 2 * (x + 0.5) / size[1] - 1
    if kind in ("bush", "rock"):
        angle = np.arctan2(y, x)
        outline = np.full_like(x, 0.93)
        for k in range(2, 9 if kind == "bush" else 5):
            outline += 0.04 / k**0.5 * np.sin(k * angle + rng.uniform(0, 2 * np.pi))
        inside = outline - (np.abs(x) ** 2.6 + np.abs(y) ** 2.6) ** (1 / 2.6)
        shade = 0.75 - 0.25 * (x + 2 * y) / 3
        shade = shade * (0.55 + 0.9 * noise(rng, size, 9 if kind == "bush" else 4, 4))
        if kind == "bush":
            colour = colour * 0.4 + np.array([0.16, 0.42, 0.12], np.float32) * rng.uniform(0.7, 1.4)
    elif kind == "fence":
        bars = int(rng.integers(4, 7))
        inside = np.maximum(np.sin(np.pi * bars * (x + 1)) - 0.1, 0.12 - np.abs(np.abs(y) - 0.5))
        inside = np.minimum(inside, 0.98 - np.maximum(np.abs(x), np.abs(y)))
        shade = 0.7 + 0.3 * np.sin(np.pi * bars * (x + 1) + 0.7) * (0.7 + 0.6 * noise(rng, size, 12))
    else:
        inside = 0.99 - np.maximum(np.abs(x), np.abs(y))
        shade = (_bricks if kind == "wall" else _planks)(rng, size) * (0.8 + 0.4 * noise(rng, size, 10))
    soft = min(size) / 4  # the outline is about a pixel wide
    alpha = np.clip(inside * soft + 0.5, 0, 1)
    rgb = np.clip(colour * shade[..., None], 0, 1)
    return (np.dstack([rgb, alpha]) * 255 + 0.5).astype(np.uint8)


def _unit(values: Array) -> Array:
    """Clip to 0 … 1."""
    return np.asarray(np.clip(values, 0, 1), np.float32)


def _grid(size: _Size) -> Array:
    """Return the y and x of every pixel, [2, H, W]."""
    return np.mgrid[: size[0], : size[1]].astype(np.float32)


def _colour(rng: np.random.Generator, saturation: _Range = (0.1, 0.55), value: _Range = (0.3, 0.9)) -> Array:
    """Draw a colour, [3]."""
    hue, s, v = rng.uniform(0, 6), rng.uniform(*saturation), rng.uniform(*value)
    k = (np.array([5.0, 3.0, 1.0]) + hue) % 6
    return (v - v * s * np.clip(np.minimum(k, 4 - k), 0, 1)).astype(np.float32)


def _mix(low: Array, high: Array, share: Array) -> Array:
    return (low + (high - low) * share[..., None]).astype(np.float32)


def _meadow(rng: np.random.Generator, size: _Size) -> Array:
    """Draw sky above a rough horizon and ground below it."""
    y = np.linspace(0, 1, size[0], dtype=np.float32)[:, None]
    top, low = _colour(rng, (0.1, 0.5), (0.6, 0.95)), _colour(rng, (0.0, 0.3), (0.7, 1.0))
    sky = _mix(top, low, y + 0 * noise(rng, size, 1, 1))
    ground = _mix(_colour(rng), _colour(rng), noise(rng, size, 8, 4))
    horizon = rng.uniform(0.25, 0.6) + 0.15 * (noise(rng, size, 3)[:1] - 0.5)
    return np.where((y > horizon)[..., None], ground, sky)


def _room(rng: np.random.Generator, size: _Size) -> Array:
    """Draw a papered wall above a floor."""
    y = np.linspace(0, 1, size[0], dtype=np.float32)[:, None, None]
    paper = _mix(_colour(rng, (0.1, 0.4)), _colour(rng, (0.1, 0.4)), pattern(rng, size) * 0.6)
    planks = _colour(rng, (0.2, 0.6), (0.3, 0.7)) * _planks(rng, size)[..., None]
    return np.where(y > rng.uniform(0.4, 0.75), planks, paper)


def _floor(rng: np.random.Generator, size: _Size) -> Array:
    surface: Callable[..., Array] = (_bricks, _planks, pattern)[int(rng.integers(3))]
    share = 0.6 * surface(rng, size) + 0.4 * noise(rng, size, 5, 4)
    return _mix(_colour(rng, value=(0.1, 0.6)), _colour(rng, value=(0.4, 0.95)), share)


def _fog(rng: np.random.Generator, size: _Size) -> Array:
    image = _mix(_colour(rng), _colour(rng), noise(rng, size, 2, 2))
    return _mix(image, _colour(rng)[None, None], noise(rng, size, 6, 3) ** 2)


def _bricks(rng: np.random.Generator, size: _Size) -> Array:
    rows = int(rng.integers(5, 11))
    y, x = _grid(size) * (rows / min(size))
    row = np.floor(y)
    x = x / 2 + (row % 2) / 2
    column = np.floor(x)
    mortar = np.minimum(np.minimum(y - row, row + 1 - y) * 2, np.minimum(x - column, column + 1 - x) * 4)
    tone = rng.random((64, 64), np.float32)[row.astype(int) % 64, column.astype(int) % 64]
    return np.asarray(np.clip(mortar * 6, 0.35, 1) * (0.7 + 0.4 * tone), np.float32)


def _planks(rng: np.random.Generator, size: _Size) -> Array:
    count = int(rng.integers(4, 9))
    y = _grid(size)[0] * (count / size[0])
    row = np.floor(y)
    grain = opencv().resize(noise(rng, (size[0], max(size[1] // 10, 4)), 24, 2), size[::-1])
    tone = rng.random(64, np.float32)[row.astype(int) % 64]
    return np.asarray(np.clip((y - row) * 9, 0.4, 1) * (0.6 + 0.25 * tone + 0.35 * grain), np.float32)


def _scatter(rng: np.random.Generator, image: Array, count: int) -> None:
    """Draw blurred objects of no class into the background."""
    cv2 = opencv()
    height, width = image.shape[:2]
    for _ in range(count):
        side = int(rng.uniform(0.06, 0.4) * min(height, width))
        top, left = int(rng.integers(0, height - side)), int(rng.integers(0, width - side))
        corners = rng.uniform(0.05, 0.95, (int(rng.integers(3, 7)), 2)) * side
        mask = np.zeros((side, side), np.float32)
        if rng.random() < 0.4:
            axes = ((corners[0] / 2).astype(int) + 1).tolist()
            middle, angle = (side // 2, side // 2), float(rng.uniform(0, 180))
            cv2.ellipse(mask, middle, axes, angle, 0, 360, 1.0, -1)
        else:
            cv2.fillPoly(mask, [cv2.convexHull(corners.astype(np.int32))], 1.0)
        mask = cv2.GaussianBlur(mask, (0, 0), float(rng.uniform(0.6, 3.0)))
        # Objects have no pattern, because procedural instances have one.
        skin = _mix(_colour(rng), _colour(rng), noise(rng, (side, side), 4))
        part = image[top : top + side, left : left + side]
        part += (skin - part) * (mask * rng.uniform(0.5, 1.0))[..., None]
