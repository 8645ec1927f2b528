"""The planning of a scene: the moves of instances, and the places of occluders.

An instance makes one *move* after the other: it meets another and passes it or turns back, vanishes behind an occluder
or outside the frame and returns, stays partly hidden, or roams. Moves are planned in frame coordinates and stored in
world coordinates, so that the camera shifts them.

Lengths are in short sides of the frame. T: frames.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from idol_deploy.synth.camera import Camera, draw_camera
from idol_deploy.synth.config import SynthConfig
from idol_deploy.synth.scene import Actor, Occluder, Scene
from idol_deploy.synth.textures import OCCLUDERS
from idol_deploy.synth.trajectories import rotations, wander

__all__ = ["draw_scene"]

Array = NDArray[np.float64]
_Option = TypeVar("_Option")

_TRANSIT = 6  # frames that leaving and returning add to an absence
_MARGIN = 0.12  # least distance of a destination from the edge of the frame


def draw_scene(rng: np.random.Generator, config: SynthConfig) -> Scene:
    """Plan a video."""
    camera = draw_camera(rng, config)
    count = int(rng.integers(config.instances[0], config.instances[1] + 1))
    groups = _groups(rng, count, config.look_alikes)
    near = float(rng.uniform(*config.scale))
    actors = []
    for group in groups:
        size = float(np.clip(near * rng.uniform(0.8, 1.25), *config.scale))
        scale = np.exp(wander(rng, config.frames, config.scale_change)[:, 0])
        actors.append(Actor(size, float(rng.random()), group, scale, float(rng.uniform(0, 2 * np.pi))))
    planner = _Planner(rng, config, camera, actors)
    planner.run()
    return Scene(camera, tuple(actors), tuple(planner.occluders))


def _groups(rng: np.random.Generator, count: int, share: float) -> list[int]:
    """Return the group of each instance: `share` of them in groups of two to four, the others alone."""
    groups: list[int] = []
    alike = round(share * count)
    if alike == 1 < count:
        alike = 2  # a group has at least two members
    while alike >= 2:
        members = min(int(rng.integers(2, 5)), alike)
        members += alike - members == 1
        groups += [len(set(groups))] * members
        alike -= members
    first = len(set(groups))
    return groups + list(range(first, first + count - len(groups)))


@dataclass(eq=False)
class _Planner:
    """The moves of all actors; a move returns whether it was possible."""

    rng: np.random.Generator
    config: SynthConfig
    camera: Camera
    actors: list[Actor]

    def __post_init__(self) -> None:
        self.half = np.array(self.config.size[::-1]) / (2 * min(self.config.size))  # of the frame
        self.occluders = self._draw_occluders()

    def run(self) -> None:
        for actor in self.actors:
            self._move_to(actor, 0, self._anywhere())
        moves = (self._meet, self._hide, self._leave, self._lurk, self._roam)
        shares = [getattr(self.config, name) for name in ("cross", "hide", "leave", "lurk")]
        shares.append(max(1 - sum(shares), 0.0))
        while (actor := min(self.actors, key=lambda one: one.free)).free < self.config.frames:
            move = moves[int(self.rng.choice(len(moves), p=np.array(shares) / sum(shares)))]
            if not move(actor):
                self._roam(actor)
        for actor in self.actors:
            actor.finish(self.config.frames)

    def _draw_occluders(self) -> list[Occluder]:
        count = int(self.rng.integers(self.config.occluders[0], self.config.occluders[1] + 1))
        occluders: list[Occluder] = []
        for _ in range(count):
            kind = self._pick(list(OCCLUDERS))
            actor = self._pick(self.actors)
            half = actor.reach * self.rng.uniform(1.1, 1.5, 2) / (OCCLUDERS[kind] or 0.8)
            half = np.minimum(half, self.half * 0.7)
            # Of some places, the one farthest from the other occluders.
            places = [self._anywhere() for _ in range(8)]
            gaps = [min((float(np.abs(p - q.place).max()) for q in occluders), default=0.0) for p in places]
            depth = float(self.rng.uniform(0.6, 1.1))
            occluders.append(Occluder(kind, places[int(np.argmax(gaps))], half, depth))
        return occluders

    def _pick(self, options: Sequence[_Option]) -> _Option:
        return options[int(self.rng.integers(len(options)))]

    def _anywhere(self) -> Array:
        room = self.half - _MARGIN
        return self.rng.uniform(-room, room)

    def _inside(self, spot: Array) -> Array:
        return np.clip(spot, _MARGIN - self.half, self.half - _MARGIN)

    def _direction(self) -> Array:
        angle = self.rng.uniform(0, 2 * np.pi)
        return np.array([np.cos(angle), np.sin(angle)])

    def _time(self, actor: Actor, spot: Array, *, brisk: bool = False) -> int:
        """Return the frames that an actor needs to a spot; `brisk`: at more than the mean speed."""
        low, high = self.config.speed
        distance = float(np.linalg.norm(spot - actor.spot))
        return max(round(distance / self.rng.uniform((low + high) / 2 if brisk else low, high)), 1)

    def _move_to(self, actor: Actor, t: int, spot: Array) -> None:
        actor.move_to(t, self.camera.to_world(t, spot), spot)

    def _move_in_world(self, actor: Actor, t: int, place: Array) -> None:
        actor.move_to(t, place, self.camera.to_frame(t, place))

    def _go(self, actor: Actor, spot: Array, *, brisk: bool = False) -> None:
        self._move_to(actor, actor.free + self._time(actor, spot, brisk=brisk), spot)

    def _absence(self) -> int:
        """Draw the frames to stay at the hiding place."""
        least, most = self.config.vanish
        return max(int(self.rng.integers(least, most + 1)) - _TRANSIT, 1)

    def _roam(self, actor: Actor) -> bool:
        self._go(actor, self._anywhere())
        return True

    def _partner(self, actor: Actor) -> Actor | None:
        """Choose another actor that is free soon, preferably a look-alike."""
        soon = [one for one in self.actors if one is not actor and one.free <= actor.free + 4]
        alike = [one for one in soon if one.group == actor.group]
        candidates = alike if alike and self.rng.random() < 0.8 else soon
        return self._pick(candidates) if candidates else None

    def _meet(self, actor: Actor) -> bool:
        """Let two actors come to one spot, stay there for a while, and pass each other or turn back."""
        other = self._partner(actor)
        if other is None:
            return False
        rng, pair = self.rng, (actor, other)
        share = rng.uniform(0.3, 0.7)
        spot = self._inside(share * actor.spot + (1 - share) * other.spot + rng.normal(0, 0.1, 2))
        times = [self._time(one, spot) for one in pair]
        meet = max(one.free + time for one, time in zip(pair, times, strict=True))
        stay = int(rng.integers(0, self.config.meeting + 1))
        offset = self._direction() * min(one.size for one in pair) * rng.uniform(0.0, 0.2)
        drift = self._direction() * rng.uniform(0, 0.1)
        passes = rng.random() < 0.6
        for one, time, side in zip(pair, times, (offset, -offset), strict=True):
            back = one.spot - spot
            if meet - time > one.free + 1:
                self._move_to(one, meet - time, one.spot + rng.normal(0, 0.02, 2))
            self._move_to(one, meet, spot + side)
            if stay:
                self._move_to(one, meet + stay, spot + side + drift)
            (turn,) = rotations(rng.normal(0, 0.35, 1))
            away = turn @ (-back if passes else back)
            length = max(float(np.linalg.norm(away)), 1e-6)
            self._go(one, self._inside(spot + away / length * max(length, one.size * 1.2)))
        return True

    def _hide(self, actor: Actor) -> bool:
        """Go behind an occluder, stay there, and come out on some side; often with another actor."""
        covers = [one for one in self._in_front(actor) if (one.cover > 0.95 * actor.reach).all()]
        if not covers:
            return False
        occluder = self._pick(covers)
        self._vanish_behind(actor, occluder)
        other = self._partner(actor)
        if other is not None and other.depth < occluder.depth and self.rng.random() < 0.4:
            self._vanish_behind(other, occluder)
        return True

    def _vanish_behind(self, actor: Actor, occluder: Occluder) -> None:
        rng = self.rng
        slack = np.maximum(occluder.cover - actor.reach, 0)
        spot = self.camera.to_frame(actor.free, occluder.place)
        arrival = actor.free + self._time(actor, spot, brisk=True)
        for t in (arrival, arrival + self._absence()):
            self._move_in_world(actor, t, occluder.place + rng.uniform(-slack, slack))
        spot = self.camera.to_frame(actor.free, occluder.place)
        clear = occluder.half + actor.reach
        ways = [self._direction() for _ in range(12)]
        exits = [self._inside(spot + way / np.abs(way / clear).max() * rng.uniform(1.0, 1.4)) for way in ways]
        # The first exit that the occluder does not hide; at the edge of the frame there may be none.
        gaps = [float(np.abs((end - spot) / clear).max()) for end in exits]
        best = next((i for i, gap in enumerate(gaps) if gap >= 0.95), int(np.argmax(gaps)))
        self._go(actor, exits[best], brisk=True)

    def _in_front(self, actor: Actor) -> list[Occluder]:
        """Return the occluders that are in front of an actor and whose centres are within the frame."""
        nearer = [one for one in self.occluders if one.depth > actor.depth]
        places = [np.abs(self.camera.to_frame(actor.free, one.place)) for one in nearer]
        return [one for one, place in zip(nearer, places, strict=True) if (place < self.half - 0.05).all()]

    def _leave(self, actor: Actor) -> bool:
        """Go beyond the nearest edge of the frame, and return over it at another place."""
        rng = self.rng
        axis = int(np.argmin(self.half - np.abs(actor.spot)))
        edge = float(np.sign(actor.spot[axis]) or 1.0)
        outside, back = actor.spot.copy(), actor.spot.copy()
        outside[axis] = edge * (self.half[axis] + 1.15 * actor.reach)
        outside[1 - axis] += rng.normal(0, 0.1)
        back[1 - axis] = outside[1 - axis] + rng.normal(0, 0.2)
        back[axis] = edge * (self.half[axis] - rng.uniform(0.15, 0.4))
        self._go(actor, outside, brisk=True)
        self._move_to(actor, actor.free + self._absence(), outside + rng.normal(0, 0.02, 2))
        self._go(actor, self._inside(back), brisk=True)
        return True

    def _lurk(self, actor: Actor) -> bool:
        """Stay at the edge of an occluder, mostly behind it; a fence hides a part everywhere."""
        occluders = self._in_front(actor)
        if not occluders:
            return False
        rng = self.rng
        occluder = self._pick(occluders)
        side, visible = self._direction(), rng.uniform(0.15, 0.45)
        side /= np.abs(side).max()
        cover = np.where(occluder.cover > 0, occluder.cover, occluder.half * 0.5)
        place = occluder.place + side * np.maximum(cover + actor.reach * (2 * visible - 1), 0)
        arrival = actor.free + self._time(actor, self.camera.to_frame(actor.free, place))
        for t in (arrival, arrival + int(rng.integers(2, 8))):
            self._move_in_world(actor, t, place + rng.normal(0, 0.03, 2) * actor.size)
        return True
