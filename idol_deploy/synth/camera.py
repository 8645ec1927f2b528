"""The motion of the camera.

World and frame coordinates are x, y in short sides of the frame, with (0, 0) in the middle. T: frames.
"""

import functools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from idol_deploy.synth.config import SynthConfig
from idol_deploy.synth.trajectories import rotations, wander

__all__ = ["Camera", "draw_camera"]

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Camera:
    """The path of a camera.

    Attributes:
        place: [T, 2] world point in the middle of the frame.
        angle: [T] rotation in radians.
        zoom: [T] scale factor.
    """

    place: Array
    angle: Array
    zoom: Array

    @functools.cached_property
    def matrices(self) -> Array:
        """Affine maps from the world to the frame, [T, 2, 3]."""
        linear = self.zoom[:, None, None] * rotations(self.angle)
        return np.concatenate([linear, -linear @ self.place[..., None]], -1)

    def to_frame(self, t: int, point: Array) -> Array:
        """Return the frame position, [2], of a world point; frames after the last equal the last."""
        matrix = self.matrices[min(t, len(self.angle) - 1)]
        return np.asarray(matrix[:, :2] @ point + matrix[:, 2])

    def to_world(self, t: int, point: Array) -> Array:
        """Return the world point, [2], at a frame position; the inverse of `to_frame`."""
        matrix = self.matrices[min(t, len(self.angle) - 1)]
        return np.linalg.solve(matrix[:, :2], point - matrix[:, 2])


def draw_camera(rng: np.random.Generator, config: SynthConfig) -> Camera:
    """Draw a path that wanders, shakes like a hand-held camera, and jumps at times, as at a cut or lost frames."""
    frames = config.frames
    place = wander(rng, frames, config.camera, 2) + rng.normal(0, 0.012 * config.camera, (frames, 2))
    for jump in rng.integers(1, max(frames, 2), rng.poisson(config.camera_jumps)):
        direction, distance = rng.uniform(0, 2 * np.pi), rng.uniform(0.1, 0.25)
        place[jump:] += distance * np.array([np.cos(direction), np.sin(direction)])
    angle = wander(rng, frames, 0.25 * config.camera)[:, 0]
    zoom = np.exp(wander(rng, frames, 0.4 * config.camera)[:, 0])
    return Camera(place - place.mean(0), angle, zoom)
