"""Frames and masks from layers.

The mask of an instance is its visible part: every pixel of which its picture covers at least half, and no nearer
picture does. Masks are therefore exact, and no pixel belongs to two instances.

T: frames; n: instances; H, W: height and width in pixels.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from idol_deploy.synth.camera import Camera
from idol_deploy.synth.config import SynthConfig
from idol_deploy.synth.layers import Layer, Placer
from idol_deploy.synth.textures import background, opencv
from idol_deploy.synth.trajectories import wander

__all__ = ["Frame", "draw_frames", "draw_outlines"]

Pixels = NDArray[np.uint8]

_HALF = 128  # least alpha of a covered pixel
_WIDER = 1.5  # size of the background relative to the frame; beyond its edge, it is mirrored
_GROUND = 200  # largest short side of the background in pixels; it looks slightly out of focus
_GRAIN = 128  # side of the noise tile in pixels


@dataclass(frozen=True, eq=False)
class Frame:
    """A drawn frame.

    Attributes:
        image: [H, W, 3] RGB.
        owner: [H, W] number of the visible instance, 1 … n; 0: none. In Fortran order.
        areas: [n] pixels of each instance, including those that others hide.
    """

    image: Pixels
    owner: NDArray[np.uint8]
    areas: NDArray[np.int64]


def draw_outlines(
    layers: Sequence[Layer], frames: int, size: tuple[int, int]
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Draw masks alone, without colours, shadows and blur.

    Returns:
        The full and the visible masks of each instance, [n, T, H, W] each.
    """
    placers = [Placer(layer, size) for layer in _in_order(layers) if layer.instance >= 0]
    count = max((placer.layer.instance for placer in placers), default=0)
    full = np.zeros((count, frames, *size), np.bool_)
    owner = np.zeros((frames, *size), np.uint8)
    for t in range(frames):
        for placer in placers:
            placed, number = placer.place(t, outline=True), placer.layer.instance
            if placed is not None:
                inside = placed.pixels >= _HALF
                owner[t, placed.rows, placed.columns][inside] = number
                if number:
                    full[number - 1, t, placed.rows, placed.columns] = inside
    return full, owner == np.arange(1, count + 1, dtype=np.uint8)[:, None, None, None]


def draw_frames(
    rng: np.random.Generator, layers: Sequence[Layer], camera: Camera, config: SynthConfig
) -> Iterator[Frame]:
    """Draw the frames of a video.

    Args:
        rng: source of randomness for background, light and noise.
        layers: layers in front of the background.
        camera: path of the camera.
        config: settings; uses size, blur, lighting and noise.

    Raises:
        MissingDependencyError: OpenCV is not installed.
    """
    ground = _Ground(rng, camera, config)
    sensor = _Sensor(rng, config)
    placers = [
        Placer(layer, config.size, config.blur if layer.instance >= 0 else 0.0)  # a shadow is soft already
        for layer in _in_order(layers)
    ]
    count = max((layer.instance for layer in layers), default=0)
    for t in range(config.frames):
        image = ground.draw(t)
        owner = np.zeros(config.size, np.uint8)
        areas = np.zeros(count, np.int64)
        for placer in placers:
            placed, number = placer.place(t), placer.layer.instance
            if placed is None:
                continue
            _lay_over(image[placed.rows, placed.columns], placed.pixels)
            if number >= 0:
                inside = placed.pixels[..., 3] >= _HALF
                owner[placed.rows, placed.columns][inside] = number
                if number:
                    areas[number - 1] = np.count_nonzero(inside)
        yield Frame(sensor.expose(image, t), np.asfortranarray(owner), areas)


def _in_order(layers: Sequence[Layer]) -> list[Layer]:
    return sorted(layers, key=lambda layer: layer.depth)


def _lay_over(under: Pixels, over: Pixels) -> None:
    """Put premultiplied RGBA over RGB, in place."""
    cv2 = opencv()
    through = cv2.cvtColor(cv2.bitwise_not(over[..., 3]), cv2.COLOR_GRAY2RGB)
    cv2.add(cv2.multiply(under, through, scale=1 / 255), cv2.cvtColor(over, cv2.COLOR_RGBA2RGB), dst=under)


class _Ground:
    """The background, as the camera sees it."""

    def __init__(self, rng: np.random.Generator, camera: Camera, config: SynthConfig) -> None:
        short = min(config.size)
        fine = min(short, _GROUND)
        size = np.array(config.size) * fine * _WIDER / short
        self._image = background(rng, (int(size[0]), int(size[1])))
        height, width = self._image.shape[:2]
        middle = np.array([[1, 0, 0.5 - width / 2], [0, 1, 0.5 - height / 2], [0, 0, fine]]) / fine
        self._matrices = short * camera.matrices @ middle
        self._size = config.size[::-1]
        self._matrices[..., 2] += np.array(self._size) / 2 - 0.5

    def draw(self, t: int) -> Pixels:
        cv2 = opencv()
        modes = {"flags": cv2.INTER_LINEAR, "borderMode": cv2.BORDER_REFLECT_101}
        return np.asarray(cv2.warpAffine(self._image, self._matrices[t], self._size, **modes))


class _Sensor:
    """The camera's sensor: light that changes over time and across the frame, and noise."""

    def __init__(self, rng: np.random.Generator, config: SynthConfig) -> None:
        self._size = config.size
        colour = rng.normal(0, 0.06, (1, 1, 1, 3)) * config.lighting
        overall = wander(rng, config.frames, 0.4 * config.lighting)[:, :, None, None]
        across = wander(rng, config.frames, 0.35 * config.lighting, 12).reshape(-1, 3, 4, 1)
        light = 128 * np.exp(colour + overall + across)
        self._light = np.clip(light, 32, 255).astype(np.uint8)
        grain = rng.normal(0, config.noise, (_GRAIN, _GRAIN, 3)).round().astype(np.int16)
        times = [side // _GRAIN + 2 for side in config.size]
        self._grain = np.tile(grain, (*times, 1)) if config.noise else None
        self._offsets = rng.integers(0, _GRAIN, (config.frames, 2))

    def expose(self, image: Pixels, t: int) -> Pixels:
        cv2 = opencv()
        light = cv2.resize(self._light[t], self._size[::-1], interpolation=cv2.INTER_LINEAR)
        image = cv2.multiply(image, light, scale=1 / 128)
        if self._grain is not None:
            top, left = self._offsets[t]
            part = self._grain[top : top + self._size[0], left : left + self._size[1]]
            image = cv2.add(image, part, dtype=cv2.CV_8U)
        return image
