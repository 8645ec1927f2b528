"""Procedural instances: blobs, stars and rings with a pattern of their own, lit from above."""

import hashlib

import numpy as np
from numpy.typing import NDArray

from idol_deploy.synth.textures import noise, pattern

__all__ = ["KINDS", "draw_shape"]

KINDS = ("blob", "ring", "star")
_SIDE = 112
_FINER = 2  # factor of the drawing size, for a smooth outline


def draw_shape(kind: str, name: str) -> NDArray[np.uint8]:  # [112, 112, 4]
    """Draw a shape as RGBA, not premultiplied; `kind` (one of `KINDS`) and `name` decide every pixel."""
    seed = int.from_bytes(hashlib.sha256(f"{kind} {name}".encode()).digest()[:8], "little")
    rng = np.random.default_rng(seed)
    side = _SIDE * _FINER
    y, x = ((np.mgrid[:side, :side] + 0.5) / side * 2 - 1).astype(np.float32)
    inside, height = _outline(rng, kind, np.arctan2(y, x), np.hypot(x, y))
    colours = rng.uniform(0.05, 0.95, (2, 3)).astype(np.float32)
    colours[1] = np.where(np.abs(colours[1] - colours[0]).sum() < 0.6, 1 - colours[0], colours[1])
    skin = colours[0] + (colours[1] - colours[0]) * pattern(rng, (side, side))[..., None]
    slope_y, slope_x = np.gradient(height, 2 / side)
    light = (1 + 0.55 * slope_y + 0.35 * slope_x) / np.sqrt(1 + slope_x**2 + slope_y**2)
    shade = np.clip(0.35 + 0.65 * light, 0.15, 1.25) * (0.85 + 0.3 * noise(rng, (side, side), 10))
    shine = np.clip(light - 1.05, 0, 1) * 0.8
    rgb = np.clip(skin * shade[..., None] + shine[..., None], 0, 1)
    alpha = (inside > 0).astype(np.float32)[..., None]
    fine = np.dstack([rgb * alpha, alpha]).reshape(_SIDE, _FINER, _SIDE, _FINER, 4).mean((1, 3))
    fine[..., :3] /= np.maximum(fine[..., 3:], 1e-6)
    return np.asarray(np.clip(fine, 0, 1) * 255 + 0.5).astype(np.uint8)


def _outline(
    rng: np.random.Generator, kind: str, angle: NDArray[np.float32], radius: NDArray[np.float32]
) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
    """Return a field that is above 0 inside the outline, and the height of the surface."""
    turn = rng.uniform(0, 2 * np.pi)
    if kind == "star":
        points, depth = int(rng.integers(4, 8)), rng.uniform(0.25, 0.45)
        edge = 0.95 - depth * np.abs(np.sin(points * (angle + turn) / 2)) ** rng.uniform(0.6, 1.2)
    elif kind == "blob":
        edge = np.full_like(angle, 0.78)
        for k in range(2, 6):
            edge += rng.uniform(0.02, 0.16) / k**0.5 * np.sin(k * angle + rng.uniform(0, 2 * np.pi))
        edge = np.minimum(edge, 0.98)
    else:
        inner = rng.uniform(0.3, 0.55)
        across = (radius - inner) / (0.95 - inner) * 2 - 1  # -1 at the hole, 1 at the outer edge
        return 1 - np.abs(across), 0.35 * np.sqrt(np.clip(1 - across**2, 0.02, 1))
    share = radius / edge
    return 1 - share, 0.8 * np.sqrt(np.clip(1 - share**2, 0.02, 1))
