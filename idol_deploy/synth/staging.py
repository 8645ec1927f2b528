"""Layers from the plan of a video: the body motion of the actors, and their position as the camera sees it.

T: frames.
"""

import numpy as np
from numpy.typing import NDArray

from idol_deploy.synth.camera import Camera
from idol_deploy.synth.identities import Identity
from idol_deploy.synth.layers import Layer, Paint, Skin
from idol_deploy.synth.scene import Actor, Scene
from idol_deploy.synth.textures import draw_occluder
from idol_deploy.synth.trajectories import rotations

__all__ = ["actor_layers", "occluder_layers"]

Array = NDArray[np.float64]

_OCCLUDER = 128  # long side of an occluder's picture, in pixels
_ROLLING = {"blob", "ring", "star", "fruit", "face"}  # kinds that are drawn at any angle and never mirrored


def occluder_layers(rng: np.random.Generator, scene: Scene) -> list[Layer]:
    """Return the layers of the occluders."""
    frames = len(scene.camera.angle)
    layers = []
    for occluder in scene.occluders:
        long = float(occluder.half.max())
        height, width = np.maximum((occluder.half[::-1] / long * _OCCLUDER).round().astype(int), 8).tolist()
        skin = Skin((draw_occluder(rng, occluder.kind, (height, width)),))
        linear = np.repeat(2 * long * np.eye(2)[None], frames, 0)
        matrices = _to_frame(scene.camera, linear, np.repeat(occluder.place[None], frames, 0))
        layers.append(Layer(skin, np.zeros(frames, np.intp), matrices, occluder.depth, 0))
    return layers


def actor_layers(
    rng: np.random.Generator, scene: Scene, actor: Actor, identity: Identity, number: int, paint: Paint
) -> tuple[Layer, Layer]:
    """Return the shadow of an actor, and the actor as instance `number`."""
    frames = len(actor.path)
    pictures = identity.pictures()
    speed = np.linalg.norm(np.gradient(actor.path, axis=0), axis=1) if frames > 1 else np.zeros(1)
    gait = actor.phase + 1.3 * 2 * np.pi * np.cumsum(speed) / actor.size
    strength = np.minimum(speed / 0.03, 1)
    angle = 0.1 * strength * np.sin(gait)
    side = np.ones(frames)
    mirrored = rng.random() < 0.5
    if identity.kind in _ROLLING:
        angle += rng.uniform(-0.5, 0.5)
        angle += 0.5 * np.sin(np.arange(frames) / rng.uniform(5, 20) + actor.phase)
    else:
        side = _facing(actor.path, mirrored)
    stretch = 0.06 * strength * np.cos(2 * gait)
    size = actor.size * actor.scale
    sides = np.stack([size * (1 - stretch) * side, size * (1 + stretch)], -1)
    linear = rotations(angle) * sides[:, None]
    # Pictures forwards and backwards: a walk need not end as it began.
    period = max(2 * len(pictures) - 2, 1)
    step = (np.arange(frames) + int(rng.integers(len(pictures)))) % period
    which = np.minimum(step, period - step).astype(np.intp)
    body = _to_frame(scene.camera, linear, actor.path)
    shadow = _to_frame(scene.camera, linear, actor.path + size[:, None] * np.array([0.08, 0.1]))
    return (
        Layer(Skin(pictures, shadow=True), which, shadow, actor.depth - 1e-6, -1),
        Layer(Skin(pictures, paint), which, body, actor.depth, number),
    )


def _to_frame(camera: Camera, linear: Array, path: Array) -> Array:
    """Combine rotation and size in the world, [T, 2, 2], with a path, [T, 2], to [T, 2, 3] in the frame."""
    view = camera.matrices
    shift = view[..., :2] @ path[..., None] + view[..., 2:]
    return np.concatenate([view[..., :2] @ linear, shift], -1)


def _facing(path: Array, mirrored: bool) -> Array:
    """Return the horizontal direction of motion, [T], as 1 or -1; a turn takes three frames."""
    step = np.gradient(path[:, 0]) if len(path) > 1 else np.zeros(1)
    side = np.where(np.abs(step) > 0.006, -np.sign(step), 0.0)
    for t in range(len(side)):
        if not side[t]:
            side[t] = side[t - 1] if t else (-1.0 if mirrored else 1.0)
    padded = np.concatenate([side[:1], side, side[-1:]])
    mean = (padded[:-2] + padded[1:-1] + padded[2:]) / 3
    return np.where(np.abs(mean) < 0.5, 0.5 * side, side)
