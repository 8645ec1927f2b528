"""Who goes where: a scene of instances and of things in their way, before anything is drawn.

Every instance goes from one *move* to the next: it meets another and passes or turns back, vanishes behind a thing or
beyond the frame's edge and returns, stays half hidden, or roams. Moves are planned where the frame shows them, and kept
in the world, so that the camera carries them along.

Lengths are in short sides of the frame. T: frames.
"""

import numpy as np
from numpy.typing import NDArray

from idol_deploy.synth.camera import Camera, draw_camera
from idol_deploy.synth.config import SynthConfig
from idol_deploy.synth.scene import Actor, Scene, Thing
from idol_deploy.synth.textures import OCCLUDERS
from idol_deploy.synth.trajectories import wander

__all__ = ["draw_scene"]

Array = NDArray[np.float64]

_SLOW = 6  # frames
_MARGIN = 0.12  # from the frame's edge, of places to go to


def draw_scene(rng: np.random.Generator, config: SynthConfig) -> Scene:
    """Plan a video."""
    camera = draw_camera(rng, config)
    count = int(rng.integers(config.instances[0], config.instances[1] + 1))
    groups = _groups(rng, count, config.look_alikes)
    near = float(rng.uniform(*config.scale))
    actors = []
    for group in groups:
        size = float(np.clip(near * rng.uniform(0.8, 1.25), *config.scale))
        grow = np.exp(wander(rng, config.frames, config.scale_change)[:, 0])
        actors.append(Actor(size, float(rng.random()), group, grow, float(rng.uniform(0, 2 * np.pi))))
    planner = _Planner(rng, config, camera, actors)
    planner.run()
    return Scene(camera, tuple(actors), tuple(planner.things))


def _groups(rng: np.random.Generator, count: int, share: float) -> list[int]:
    """Of each instance; as many as `share` says are in a group of two to four, the others alone."""
    groups: list[int] = []
    alike = round(share * count)
    if alike == 1 < count:
        alike = 2  # nobody is alike alone
    while alike >= 2:
        members = min(int(rng.integers(2, 5)), alike)
        members += alike - members == 1
        groups += [len(set(groups))] * members
        alike -= members
    return groups + list(range(len(set(groups)), len(set(groups)) + count - len(groups)))


class _Planner:
    def __init__(
        self, rng: np.random.Generator, config: SynthConfig, camera: Camera, actors: list[Actor]
    ) -> None:
        self._rng = rng
        self._config = config
        self._camera = camera
        self._actors = actors
        height, width = config.size
        self._half = np.array([width, height]) / (2 * min(config.size))
        self.things = self._draw_things()

    def run(self) -> None:
        for actor in self._actors:
            self._move_to(actor, 0, self._anywhere())
        moves = (self._meet, self._hide, self._leave, self._lurk, self._roam)
        shares = [getattr(self._config, name) for name in ("cross", "hide", "leave", "lurk")]
        shares.append(max(1 - sum(shares), 0.0))
        while (actor := min(self._actors, key=lambda one: one.free)).free < self._config.frames:
            move = moves[int(self._rng.choice(len(moves), p=np.array(shares) / sum(shares)))]
            if not move(actor):
                self._roam(actor)
        for actor in self._actors:
            actor.finish(self._config.frames)

    def _draw_things(self) -> list[Thing]:
        count = int(self._rng.integers(self._config.occluders[0], self._config.occluders[1] + 1))
        kinds, things = list(OCCLUDERS), list[Thing]()
        for _ in range(count):
            kind = kinds[int(self._rng.integers(len(kinds)))]
            behind = self._actors[int(self._rng.integers(len(self._actors)))]
            half = behind.reach * self._rng.uniform(1.1, 1.5, 2) / (OCCLUDERS[kind] or 0.8)
            half = np.minimum(half, self._half * 0.7)
            # Apart from each other: the best of some places.
            places = [self._anywhere() for _ in range(8)]
            apart = [min((float(np.abs(p - q.place).max()) for q in things), default=0.0) for p in places]
            things.append(
                Thing(kind, places[int(np.argmax(apart))], half, float(self._rng.uniform(0.6, 1.1)))
            )
        return things

    def _anywhere(self) -> Array:
        room = self._half - _MARGIN
        return self._rng.uniform(-room, room)

    def _inside(self, spot: Array) -> Array:
        return np.clip(spot, _MARGIN - self._half, self._half - _MARGIN)

    def _direction(self) -> Array:
        way = self._rng.uniform(0, 2 * np.pi)
        return np.array([np.cos(way), np.sin(way)])

    def _time(self, distance: float, *, brisk: bool = False) -> int:
        """How many frames a way takes; brisk: at more than the mean speed."""
        low, high = self._config.speed
        return max(round(distance / self._rng.uniform((low + high) / 2 if brisk else low, high)), 1)

    def _move_to(self, actor: Actor, t: int, spot: Array) -> None:
        actor.be_at(t, self._camera.to_world(t, spot), spot)

    def _go(self, actor: Actor, spot: Array, *, brisk: bool = False) -> None:
        way = float(np.linalg.norm(spot - actor.spot))
        self._move_to(actor, actor.free + self._time(way, brisk=brisk), spot)

    def _absence(self) -> int:
        """How long to stay away; getting out of sight and back takes about six frames more."""
        return max(int(self._rng.integers(self._config.vanish[0], self._config.vanish[1] + 1)) - _SLOW, 1)

    def _roam(self, actor: Actor) -> bool:
        self._go(actor, self._anywhere())
        return True

    def _partner(self, actor: Actor) -> Actor | None:
        """One that is free soon, a look-alike if there is one."""
        soon = [one for one in self._actors if one is not actor and one.free <= actor.free + 4]
        alike = [one for one in soon if one.group == actor.group]
        among = alike if alike and self._rng.random() < 0.8 else soon
        return among[int(self._rng.integers(len(among)))] if among else None

    def _meet(self, actor: Actor) -> bool:
        """Two come to one spot, stay there for a while, and pass each other or turn back."""
        other = self._partner(actor)
        if other is None:
            return False
        rng, pair = self._rng, (actor, other)
        share = rng.uniform(0.3, 0.7)
        spot = self._inside(share * actor.spot + (1 - share) * other.spot + rng.normal(0, 0.1, 2))
        ways = [self._time(float(np.linalg.norm(spot - one.spot))) for one in pair]
        meet = max(one.free + way for one, way in zip(pair, ways, strict=True))
        stay = int(rng.integers(0, self._config.meeting + 1))
        off = self._direction() * min(one.size for one in pair) * rng.uniform(0.0, 0.2)
        drift = self._direction() * rng.uniform(0, 0.1)
        passes = rng.random() < 0.6
        for one, way, side in zip(pair, ways, (off, -off), strict=True):
            came = one.spot - spot
            if meet - way > one.free + 1:
                self._move_to(one, meet - way, one.spot + rng.normal(0, 0.02, 2))
            self._move_to(one, meet, spot + side)
            if stay:
                self._move_to(one, meet + stay, spot + side + drift)
            away = -came if passes else came
            turn = rng.normal(0, 0.35)
            away = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]) @ away
            length = max(float(np.linalg.norm(away)), 1e-6)
            self._go(one, self._inside(spot + away / length * max(length, one.size * 1.2)))
        return True

    def _hide(self, actor: Actor) -> bool:
        """Go behind a thing, stay there, and come out on some side; often with another."""
        covers = [
            thing
            for thing in self.things
            if thing.depth > actor.depth
            and (thing.cover > 0.95 * actor.reach).all()
            and self._shown(thing, actor.free)
        ]
        if not covers:
            return False
        thing = covers[int(self._rng.integers(len(covers)))]
        self._vanish_behind(actor, thing)
        other = self._partner(actor)
        if other is not None and other.depth < thing.depth and self._rng.random() < 0.4:
            self._vanish_behind(other, thing)
        return True

    def _vanish_behind(self, actor: Actor, thing: Thing) -> None:
        rng = self._rng
        slack = np.maximum(thing.cover - actor.reach, 0)
        place = self._camera.to_frame(actor.free, thing.place)
        arrive = actor.free + self._time(float(np.linalg.norm(place - actor.spot)), brisk=True)
        for t in (arrive, arrive + self._absence()):
            world = thing.place + rng.uniform(-slack, slack)
            actor.be_at(t, world, self._camera.to_frame(t, world))
        place = self._camera.to_frame(actor.free, thing.place)
        clear = thing.half + actor.reach
        ways = [self._direction() for _ in range(12)]
        outs = [self._inside(place + way / np.abs(way / clear).max() * rng.uniform(1.0, 1.4)) for way in ways]
        # The first way that does not end at the frame's edge with the thing still before it.
        free = [float(np.abs((out - place) / clear).max()) for out in outs]
        best = next((i for i, share in enumerate(free) if share >= 0.95), int(np.argmax(free)))
        self._go(actor, outs[best], brisk=True)

    def _shown(self, thing: Thing, t: int) -> bool:
        return bool((np.abs(self._camera.to_frame(t, thing.place)) < self._half - 0.05).all())

    def _leave(self, actor: Actor) -> bool:
        """Go beyond the nearest edge, and come back over it at another place."""
        rng = self._rng
        axis = int(np.argmin(self._half - np.abs(actor.spot)))
        edge = float(np.sign(actor.spot[axis]) or 1.0)
        outside, back = actor.spot.copy(), actor.spot.copy()
        outside[axis] = edge * (self._half[axis] + 1.15 * actor.reach)
        outside[1 - axis] += rng.normal(0, 0.1)
        back[1 - axis] = outside[1 - axis] + rng.normal(0, 0.2)
        back[axis] = edge * (self._half[axis] - rng.uniform(0.15, 0.4))
        self._go(actor, outside, brisk=True)
        self._move_to(actor, actor.free + self._absence(), outside + rng.normal(0, 0.02, 2))
        self._go(actor, self._inside(back), brisk=True)
        return True

    def _lurk(self, actor: Actor) -> bool:
        """Stay at the edge of a thing, most of the body behind it; a fence hides a part everywhere."""
        things = [
            thing for thing in self.things if thing.depth > actor.depth and self._shown(thing, actor.free)
        ]
        if not things:
            return False
        rng = self._rng
        thing = things[int(rng.integers(len(things)))]
        side, seen = self._direction(), rng.uniform(0.15, 0.45)
        side /= np.abs(side).max()
        cover = np.where(thing.cover > 0, thing.cover, thing.half * 0.5)
        world = thing.place + side * np.maximum(cover + actor.reach * (2 * seen - 1), 0)
        spot = self._camera.to_frame(actor.free, world)
        arrive = actor.free + self._time(float(np.linalg.norm(spot - actor.spot)))
        for t in (arrive, arrive + int(rng.integers(2, 8))):
            moved = world + rng.normal(0, 0.03, 2) * actor.size
            actor.be_at(t, moved, self._camera.to_frame(t, moved))
        return True
