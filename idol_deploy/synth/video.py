"""A synthetic video, decided by its number alone.

    draft = draft_video(synth_preset("standard"), read_library(), "val", seed=0, index=3, attempt=0)
    for frame in draft.frames() if draft else (): ...

T: frames; n: instances.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from idol_deploy.synth.camera import Camera
from idol_deploy.synth.casting import cast, paint
from idol_deploy.synth.config import SynthConfig
from idol_deploy.synth.events import Meeting, find_meetings, find_vanishings
from idol_deploy.synth.identities import SPLITS, Identity, Library, Split
from idol_deploy.synth.layers import Layer
from idol_deploy.synth.plan import draw_scene
from idol_deploy.synth.render import Frame, draw_frames, draw_outlines
from idol_deploy.synth.staging import actor_layers, occluder_layers

__all__ = ["Draft", "allowed", "draft_video", "least_seen"]

_PREVIEW = 56  # short side in pixels of the frames on which a plan is checked
_LEAST = 12  # pixels of the smallest mask, at a short side of 160 pixels


@dataclass(frozen=True, eq=False)
class Draft:
    """A planned video whose frames are not drawn yet.

    Attributes:
        identities: n identities.
        groups: n group numbers; look-alikes have the same.
        full_areas: [n, T] area of each full instance, also outside the frame, in squares of the short side.
        meetings: meetings of the instances.
    """

    identities: tuple[Identity, ...]
    groups: tuple[int, ...]
    full_areas: NDArray[np.float64]
    meetings: tuple[Meeting, ...]
    _layers: Sequence[Layer]
    _camera: Camera
    _config: SynthConfig
    _seed: tuple[int, ...]

    def frames(self) -> Iterator[Frame]:
        """Draw the frames; every call draws the same ones."""
        rng = np.random.default_rng((*self._seed, 1))
        return draw_frames(rng, self._layers, self._camera, self._config)


def draft_video(
    config: SynthConfig, library: Library, split: Split, seed: int, index: int, attempt: int
) -> Draft | None:
    """Plan a video.

    Args:
        config: settings.
        library: available identities.
        split: split of the identities.
        seed: seed of the data set.
        index: number of the video in the data set.
        attempt: number of the plan; another number gives another plan.

    Returns:
        The plan; None if an instance is absent for too long or is hardly ever visible.

    Raises:
        ConfigError: the split has no identities.
    """
    seeds = (seed, SPLITS.index(split), index, attempt)
    rng = np.random.default_rng((*seeds, 0))
    scene = draw_scene(rng, config)
    identities = cast(rng, scene.actors, library.identities(split))
    layers = occluder_layers(rng, scene)
    areas = []
    for number, (actor, identity) in enumerate(zip(scene.actors, identities, strict=True), start=1):
        colours = paint(rng, actor, scene.actors, config)
        shadow, body = actor_layers(rng, scene, actor, identity, number, colours)
        layers += [shadow, body]
        scale = np.abs(np.linalg.det(body.matrices[..., :2]))
        areas.append(scale * body.skin.areas()[body.which])
    full_areas = np.stack(areas)
    short = min(config.size)
    height, width = (round(side * _PREVIEW / short) for side in config.size)
    full, seen = draw_outlines(layers, config.frames, (height, width))
    visible = np.greater_equal(seen.sum((2, 3)), least_seen(full_areas, config, min(height, width)))
    if not allowed(visible, np.any(full, (2, 3)), config):
        return None
    groups = tuple(actor.group for actor in scene.actors)
    meetings = tuple(find_meetings(full))
    return Draft(identities, groups, full_areas, meetings, layers, scene.camera, config, seeds)


def least_seen(full_areas: NDArray[np.float64], config: SynthConfig, short: int) -> NDArray[np.float64]:
    """Return the fewest visible pixels for which an instance has a mask.

    Args:
        full_areas: areas of the full instances, in squares of the short side.
        config: settings.
        short: short side of the frame in pixels.
    """
    return np.maximum(config.least_seen * full_areas * short**2, _LEAST * (short / 160) ** 2)


def allowed(visible: NDArray[np.bool_], inside: NDArray[np.bool_], config: SynthConfig) -> bool:
    """Check that every instance is visible in three frames and never absent for longer than `config.vanish`.

    Args:
        visible: [n, T] whether an instance has a mask.
        inside: [n, T] whether an instance is within the frame.
        config: settings.
    """
    enough = (visible.sum(1) >= min(3, config.frames)).all()
    absences = [vanishing.frames for vanishing in find_vanishings(visible, inside)]
    return bool(enough) and max(absences, default=0) <= config.vanish[1]
