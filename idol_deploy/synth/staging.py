"""From a plan to what is drawn: how actors move their bodies, and where the camera sees all of it.

T: frames.
"""

import numpy as np
from numpy.typing import NDArray

from idol_deploy.synth.camera import Camera
from idol_deploy.synth.identities import Identity
from idol_deploy.synth.layers import Layer, Paint, Skin
from idol_deploy.synth.scene import Actor, Scene
from idol_deploy.synth.textures import occluder

__all__ = ["actor_layers", "thing_layers"]

_THING = 128  # long side of an occluder, in pixels
_ROLLING = {"blob", "ring", "star", "fruit", "face"}  # have no side to turn, and may be seen at any angle


def thing_layers(rng: np.random.Generator, scene: Scene) -> list[Layer]:
    """What is in the way."""
    frames = len(scene.camera.angle)
    layers = []
    for thing in scene.things:
        long = float(thing.half.max())
        height, width = np.maximum((thing.half[::-1] / long * _THING).round().astype(int), 8)
        skin = Skin((occluder(rng, thing.kind, (int(height), int(width))),))
        world = np.repeat(np.array([[2 * long, 0], [0, 2 * long]])[None], frames, 0)
        matrices = _compose(scene.camera, world, np.repeat(thing.place[None], frames, 0))
        layers.append(Layer(skin, np.zeros(frames, np.intp), matrices, thing.depth, 0))
    return layers


def actor_layers(
    rng: np.random.Generator, scene: Scene, actor: Actor, identity: Identity, number: int, paint: Paint
) -> list[Layer]:
    """An actor's shadow and the actor, who is instance `number`."""
    frames = len(actor.way)
    pictures = identity.pictures()
    speed = np.linalg.norm(np.gradient(actor.way, axis=0), axis=1) if frames > 1 else np.zeros(1)
    gait = actor.phase + 1.3 * 2 * np.pi * np.cumsum(speed) / actor.size
    lively = np.minimum(speed / 0.03, 1)
    angle = 0.1 * lively * np.sin(gait)
    side = np.ones(frames)
    mirrored = rng.random() < 0.5
    if identity.kind not in _ROLLING:
        side = _facing(actor.way, mirrored)
    else:
        angle = (
            angle
            + rng.uniform(-0.5, 0.5)
            + 0.5 * np.sin(np.arange(frames) / rng.uniform(5, 20) + actor.phase)
        )
    stretch = 0.06 * lively * np.cos(2 * gait)
    size = actor.size * actor.scale
    sides = np.stack([size * (1 - stretch) * side, size * (1 + stretch)], -1)
    along, across = np.cos(angle), np.sin(angle)
    turn = np.stack([np.stack([along, -across], -1), np.stack([across, along], -1)], 1)
    world = turn * sides[:, None]
    which = _cycle(frames, len(pictures), int(rng.integers(len(pictures))))
    own = _compose(scene.camera, world, actor.way)
    below = _compose(scene.camera, world, actor.way + size[:, None] * np.array([0.08, 0.1]))
    depth = actor.depth
    return [
        Layer(Skin(pictures, shadow=True), which, below, depth - 1e-6, -1),
        Layer(Skin(pictures, paint), which, own, depth, number),
    ]


def _compose(camera: Camera, world: NDArray[np.float64], way: NDArray[np.float64]) -> NDArray[np.float64]:
    """[T, 2, 3] from [T, 2, 2] turn and sides, and [T, 2] places in the world."""
    view = camera.matrices
    linear = view[..., :2] @ world
    shift = view[..., :2] @ way[..., None] + view[..., 2:]
    return np.concatenate([linear, shift], -1)


def _facing(way: NDArray[np.float64], mirrored: bool) -> NDArray[np.float64]:
    """[T] 1 or -1, the way it goes; turning round takes three frames."""
    step = np.gradient(way[:, 0]) if len(way) > 1 else np.zeros(1)
    side = np.where(np.abs(step) > 0.006, -np.sign(step), 0.0)
    for t in range(len(side)):
        if not side[t]:
            side[t] = side[t - 1] if t else (-1.0 if mirrored else 1.0)
    padded = np.concatenate([side[:1], side, side[-1:]])
    mean = (padded[:-2] + padded[1:-1] + padded[2:]) / 3
    return np.where(np.abs(mean) < 0.5, 0.5 * side, side)


def _cycle(frames: int, pictures: int, start: int) -> NDArray[np.intp]:
    """[T] there and back again: a walk that was cut out need not end as it began."""
    period = max(2 * pictures - 2, 1)
    step = (np.arange(frames) + start) % period
    return np.minimum(step, period - step).astype(np.intp)
