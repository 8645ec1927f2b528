"""From layers to frames and masks.

The mask of an instance is what is seen of it: every pixel of which its own picture covers at least half, and no nearer
one does. So masks are exact by construction, and no pixel belongs to two.

T: frames; n: instances; H, W: height and width in pixels.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from idol_deploy.synth.camera import Camera
from idol_deploy.synth.config import SynthConfig
from idol_deploy.synth.layers import Layer, Placer
from idol_deploy.synth.opencv import opencv
from idol_deploy.synth.textures import background
from idol_deploy.synth.trajectories import wander

__all__ = ["Frame", "draw_frames", "draw_outlines"]

Pixels = NDArray[np.uint8]

_HALF = 128  # alpha from which on a picture covers a pixel
_WIDER = 1.5  # the background than the frame; beyond, it is mirrored
_GROUND = 200  # short side of the frame, in pixels of the background at most: it is a little out of focus
_GRAIN = 128


@dataclass(frozen=True, eq=False)
class Frame:
    """A frame as drawn.

    Attributes:
        image: [H, W, 3] RGB; of an outline: nothing.
        owner: [H, W] the instance that is seen there, 1 … n; 0: none. Columns are contiguous.
        areas: [n] pixels of each instance, had nothing been in its way.
    """

    image: Pixels
    owner: NDArray[np.uint8]
    areas: NDArray[np.int64]


def draw_outlines(
    layers: Sequence[Layer], frames: int, size: tuple[int, int]
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """What is where, without colours, shadows and blur.

    Returns:
        [n, T, H, W] all of each instance, and what is seen of it.
    """
    shown = [Placer(layer, size) for layer in _in_order(layers) if layer.instance >= 0]
    count = max((placer.layer.instance for placer in shown), default=0)
    whole = np.zeros((count, frames, *size), np.bool_)
    owner = np.zeros((frames, *size), np.uint8)
    for t in range(frames):
        for placer in shown:
            placed, number = placer.place(t, outline=True), placer.layer.instance
            if placed is not None:
                inside = placed.pixels >= _HALF
                owner[t, placed.rows, placed.columns][inside] = number
                if number:
                    whole[number - 1, t, placed.rows, placed.columns] = inside
    return whole, np.stack([owner == i + 1 for i in range(count)]) if count else whole


def draw_frames(
    rng: np.random.Generator, layers: Sequence[Layer], camera: Camera, config: SynthConfig
) -> Iterator[Frame]:
    """Draw a video.

    Args:
        rng: decides the background, the light and the noise.
        layers: what is in front of the background.
        camera: from the background to the frame.
        config: size, blur, lighting, noise.

    Raises:
        MissingDependencyError: OpenCV is not installed.
    """
    ground = _Ground(rng, camera, config)
    sensor = _Sensor(rng, config)
    shown = [
        Placer(layer, config.size, config.blur if layer.instance >= 0 else 0.0)  # a shadow is soft already
        for layer in _in_order(layers)
    ]
    count = max((layer.instance for layer in layers), default=0)
    for t in range(config.frames):
        image = ground.draw(t)
        owner = np.zeros(config.size, np.uint8)
        areas = np.zeros(count, np.int64)
        for placer in shown:
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
    """The background, under the camera."""

    def __init__(self, rng: np.random.Generator, camera: Camera, config: SynthConfig) -> None:
        fine = min(min(config.size), _GROUND)
        size = np.array(config.size) * fine * _WIDER / min(config.size)
        self._image = background(rng, (int(size[0]), int(size[1])))
        height, width = self._image.shape[:2]
        middle = np.array([[1, 0, 0.5 - width / 2], [0, 1, 0.5 - height / 2], [0, 0, fine]]) / fine
        matrices = min(config.size) * camera.matrices @ middle
        matrices[..., 2] += np.array([config.size[1], config.size[0]]) / 2 - 0.5
        self._matrices = matrices
        self._size = config.size[::-1]

    def draw(self, t: int) -> Pixels:
        cv2 = opencv()
        drawn: Pixels = cv2.warpAffine(
            self._image,
            self._matrices[t],
            self._size,
            flags=cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_REFLECT_101,
        )
        return drawn


class _Sensor:
    """Light that changes over time and across the frame, and noise."""

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
