"""Colours of track ids: the same in every frame and video, and clearly different for neighbouring ids."""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

__all__ = ["id_colour", "text_colour"]

_LIGHTNESS = (0.70, 0.63, 0.76)  # ids of similar hue, 5 or 8 apart, differ in lightness
_YELLOW = 1.92  # hue; screens show yellow vividly if it is light, and the opposite blue if it is dark


@lru_cache(maxsize=4096)
def id_colour(track_id: int) -> tuple[int, int, int]:
    """Return the colour of a track, as 8-bit (R, G, B).

    From id to id, the hue turns by the golden angle in OKLCH, a colour space with perceptually even steps.
    """
    # Id 0 is blue; multiples of the golden ratio, modulo 1, fill the circle of hues evenly.
    hue = 2 * np.pi * ((0.69 + track_id * 0.6180339887498949) % 1.0)
    lightness = _LIGHTNESS[track_id % len(_LIGHTNESS)] + 0.06 * np.cos(hue - _YELLOW)
    chroma = 0.19
    rgb = _oklch_to_linear(lightness, chroma, hue)
    while (rgb.min() < 0 or rgb.max() > 1) and chroma > 0.02:
        # Reduce the chroma of a colour that a screen cannot show: clipping would change the hue.
        chroma -= 0.01
        rgb = _oklch_to_linear(lightness, chroma, hue)
    linear = np.clip(rgb, 0.0, 1.0)
    encoded = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    red, green, blue = (int(channel) for channel in np.rint(encoded * 255))
    return red, green, blue


def text_colour(background: tuple[int, int, int]) -> tuple[int, int, int]:
    """Return black or white, whichever has more contrast on an 8-bit (R, G, B) background."""
    red, green, blue = ((channel / 255) ** 2.2 for channel in background)
    luminance = 0.2126 * red + 0.7152 * green + 0.0722 * blue
    # At a luminance of 0.18, the contrast (WCAG 2) to black and to white is equal.
    return (0, 0, 0) if luminance > 0.18 else (255, 255, 255)


def _oklch_to_linear(lightness: float, chroma: float, hue: float) -> NDArray[np.float64]:
    """Convert an OKLCH colour to linear sRGB (Ottosson 2020)."""
    a, b = chroma * np.cos(hue), chroma * np.sin(hue)
    lms = np.array(
        [
            lightness + 0.3963377774 * a + 0.2158037573 * b,
            lightness - 0.1055613458 * a - 0.0638541728 * b,
            lightness - 0.0894841775 * a - 1.2914855480 * b,
        ]
    )
    to_rgb = np.array(
        [
            [4.0767416621, -3.3077115913, 0.2309699292],
            [-1.2684380046, 2.6097574011, -0.3413193965],
            [-0.0041960863, -0.7034186147, 1.7076147010],
        ]
    )
    return np.asarray(to_rgb @ lms**3)
