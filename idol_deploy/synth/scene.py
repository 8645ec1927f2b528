"""The plan of a video: instances and occluders with their positions over time.

Lengths are in short sides of the frame. T: frames.
"""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from idol_deploy.synth.camera import Camera
from idol_deploy.synth.textures import OCCLUDERS
from idol_deploy.synth.trajectories import smooth_path

__all__ = ["Actor", "Occluder", "Scene"]

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Occluder:
    """An object that hides instances and does not move in the world.

    Attributes:
        kind: key of `OCCLUDERS`.
        place: [2] position in the world.
        half: [2] half its width and height.
        depth: drawing order; above the depth of the instances that it hides.
    """

    kind: str
    place: Array
    half: Array
    depth: float

    @property
    def cover(self) -> Array:
        """Half sides, [2], of the rectangle that it hides completely."""
        return self.half * OCCLUDERS[self.kind]


@dataclass(eq=False)
class Actor:
    """An instance and its planned path.

    Attributes:
        size: long side.
        depth: drawing order; a higher value is nearer.
        group: number of the group of look-alikes.
        scale: [T] factors of the size.
        phase: phase of the gait in radians.
        path: [T, 2] positions in the world; set by `finish`.
        spot: [2] position in the frame at the last planned time.
    """

    size: float
    depth: float
    group: int
    scale: Array
    phase: float
    path: Array = field(default_factory=lambda: np.zeros((0, 2)))
    spot: Array = field(default_factory=lambda: np.zeros(2))
    _times: list[float] = field(default_factory=list)
    _points: list[Array] = field(default_factory=list)

    @property
    def free(self) -> int:
        """The last planned frame; the next move starts there."""
        return int(self._times[-1])

    @property
    def reach(self) -> float:
        """Half the long side at its largest, with a margin."""
        return 0.53 * self.size * float(self.scale.max())

    def move_to(self, t: int, world: Array, spot: Array) -> None:
        """Plan a position at frame `t`, or one frame after the last planned one if that is later."""
        self._times.append(max(t, self._times[-1] + 1) if self._times else t)
        self._points.append(world)
        self.spot = spot

    def finish(self, frames: int) -> None:
        """Join the planned positions by a smooth path."""
        self.path = smooth_path(np.array(self._times, float), np.stack(self._points), np.arange(frames))


@dataclass(frozen=True, eq=False)
class Scene:
    """The plan of a video.

    Attributes:
        camera: path of the camera.
        actors: instances.
        occluders: objects in front of them.
    """

    camera: Camera
    actors: tuple[Actor, ...]
    occluders: tuple[Occluder, ...]
