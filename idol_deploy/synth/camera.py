"""How the camera moves: from the world to the frame, both in short sides of the frame, (0, 0) in the middle.

T: frames.
"""

import functools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from idol_deploy.synth.config import SynthConfig
from idol_deploy.synth.trajectories import wander

__all__ = ["Camera", "draw_camera"]

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Camera:
    """A camera's way.

    Attributes:
        place: [T, 2] x, y in the world that the middle of the frame looks at.
        angle: [T] in radians.
        zoom: [T] factors.
    """

    place: Array
    angle: Array
    zoom: Array

    @functools.cached_property
    def matrices(self) -> Array:
        """[T, 2, 3] from the world to the frame."""
        along, across = self.zoom * np.cos(self.angle), self.zoom * np.sin(self.angle)
        turn = np.stack([np.stack([along, -across], -1), np.stack([across, along], -1)], 1)
        return np.concatenate([turn, -turn @ self.place[..., None]], -1)

    def to_frame(self, t: int, point: Array) -> Array:
        """[2] where a point of the world is seen; frames beyond the last are like it."""
        matrix = self.matrices[min(t, len(self.angle) - 1)]
        seen: Array = matrix[:, :2] @ point + matrix[:, 2]
        return seen

    def to_world(self, t: int, point: Array) -> Array:
        """[2] the point of the world that is seen there."""
        matrix = self.matrices[min(t, len(self.angle) - 1)]
        world: Array = np.linalg.solve(matrix[:, :2], point - matrix[:, 2])
        return world


def draw_camera(rng: np.random.Generator, config: SynthConfig) -> Camera:
    """Wandering, the shake of a hand, and now and then a jump, as at a cut or where frames were lost."""
    frames = config.frames
    place = wander(rng, frames, config.camera, 2) + rng.normal(0, 0.012 * config.camera, (frames, 2))
    for jump in rng.integers(1, max(frames, 2), rng.poisson(config.camera_jumps)):
        way, far = rng.uniform(0, 2 * np.pi), rng.uniform(0.1, 0.25)
        place[jump:] += far * np.array([np.cos(way), np.sin(way)])
    angle = wander(rng, frames, 0.25 * config.camera)[:, 0]
    zoom = np.exp(wander(rng, frames, 0.4 * config.camera)[:, 0])
    return Camera(place - place.mean(0), angle, zoom)
