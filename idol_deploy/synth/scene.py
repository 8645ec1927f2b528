"""A scene: who and what is where, and when. Lengths are in short sides of the frame. T: frames."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from idol_deploy.synth.camera import Camera
from idol_deploy.synth.textures import OCCLUDERS
from idol_deploy.synth.trajectories import smooth_way

__all__ = ["Actor", "Scene", "Thing"]

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Thing:
    """Something in the way, at rest in the world.

    Attributes:
        kind: of `OCCLUDERS`.
        place: [2] x, y.
        half: [2] half its width and height.
        depth: above that of what it hides.
    """

    kind: str
    place: Array
    half: Array
    depth: float

    @property
    def cover(self) -> Array:
        """[2] half sides of what it hides wholly."""
        return self.half * OCCLUDERS[self.kind]


@dataclass(eq=False)
class Actor:
    """An instance's part.

    Attributes:
        size: long side.
        depth: higher is nearer.
        group: look-alikes have the same.
        way: [T, 2] where it is in the world.
        scale: [T] of its size.
        phase: of its gait.
    """

    size: float
    depth: float
    group: int
    scale: Array
    phase: float
    way: Array = field(default_factory=lambda: np.zeros((0, 2)))
    _times: list[float] = field(default_factory=list)
    _points: list[Array] = field(default_factory=list)
    spot: Array = field(default_factory=lambda: np.zeros(2))  # in the frame, at the last time

    @property
    def free(self) -> int:
        """The frame from which nothing is planned yet."""
        return int(self._times[-1])

    @property
    def reach(self) -> float:
        """Half its long side at its largest."""
        return 0.53 * self.size * float(self.scale.max())

    def be_at(self, t: int, world: Array, spot: Array) -> None:
        """Plan where to be; later than all before."""
        self._times.append(max(t, self._times[-1] + 1) if self._times else t)
        self._points.append(world)
        self.spot = spot

    def finish(self, frames: int) -> None:
        """Join the planned places by a smooth way."""
        self.way = smooth_way(np.array(self._times, float), np.stack(self._points), np.arange(frames))


@dataclass(frozen=True, eq=False)
class Scene:
    """All that happens in a video.

    Attributes:
        camera: its way.
        actors: the instances.
        things: what is in their way.
    """

    camera: Camera
    actors: tuple[Actor, ...]
    things: tuple[Thing, ...]
