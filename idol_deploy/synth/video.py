"""One synthetic video, from its number alone.

    draft = draft_video(standard(), read_library(), "val", seed=0, index=3, attempt=0)
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
from idol_deploy.synth.staging import actor_layers, thing_layers

__all__ = ["ATTEMPTS", "Draft", "allowed", "draft_video", "least_seen"]

ATTEMPTS = 100
_PREVIEW = 56  # short side in pixels at which a scene is tried
_LEAST = 12  # pixels


@dataclass(frozen=True, eq=False)
class Draft:
    """A video that is planned, and not drawn yet.

    Attributes:
        identities: n.
        groups: n; look-alikes have the same.
        full_areas: [n, T] how much each covers with all that is outside of the frame, in squares of the short side.
        meetings: of the instances.
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
        """Draw it; the same each time."""
        rng = np.random.default_rng((*self._seed, 1))
        return draw_frames(rng, self._layers, self._camera, self._config)


def draft_video(
    config: SynthConfig, library: Library, split: Split, seed: int, index: int, attempt: int
) -> Draft | None:
    """Plan a video.

    Args:
        config: what it is like.
        library: who may appear.
        split: whose identities.
        seed: of the data set.
        index: of the video in it.
        attempt: another gives another video.

    Returns:
        The plan; None where an instance would be away for longer than allowed, or hardly ever be seen.

    Raises:
        ConfigError: the split has no identities.
    """
    seeds = (seed, SPLITS.index(split), index, attempt)
    rng = np.random.default_rng((*seeds, 0))
    scene = draw_scene(rng, config)
    identities = cast(rng, scene.actors, library.identities(split))
    layers = thing_layers(rng, scene)
    areas = []
    for number, (actor, identity) in enumerate(zip(scene.actors, identities, strict=True), start=1):
        shown = actor_layers(rng, scene, actor, identity, number, paint(rng, actor, scene.actors, config))
        layers += shown
        matrices = shown[-1].matrices
        scale = np.abs(np.linalg.det(matrices[..., :2]))
        areas.append(scale * shown[-1].skin.areas()[shown[-1].which])
    full = np.stack(areas)
    size = _preview(config.size)
    whole, seen = draw_outlines(layers, config.frames, size)
    visible = np.greater_equal(seen.sum((2, 3)), least_seen(full, config, min(size)))
    inside: NDArray[np.bool_] = np.any(whole, (2, 3))
    if not allowed(visible, inside, config):
        return None
    groups = tuple(actor.group for actor in scene.actors)
    return Draft(identities, groups, full, tuple(find_meetings(whole)), layers, scene.camera, config, seeds)


def least_seen(full: NDArray[np.float64], config: SynthConfig, short: int) -> NDArray[np.float64]:
    """Pixels from which on something that is seen is a mask.

    Args:
        full: areas of the whole, in squares of the short side.
        config: the settings.
        short: the short side of the frame in pixels.
    """
    return np.maximum(config.least_seen * full * short**2, _LEAST * (short / 160) ** 2)


def allowed(visible: NDArray[np.bool_], inside: NDArray[np.bool_], config: SynthConfig) -> bool:
    """Whether everyone is seen for a while, and nobody is away for longer than the settings say.

    Args:
        visible: [n, T] who has a mask when.
        inside: [n, T] who is within the frame when.
        config: the settings.
    """
    enough = (visible.sum(1) >= min(3, config.frames)).all()
    gaps = [vanishing.frames for vanishing in find_vanishings(visible, inside)]
    return bool(enough) and max(gaps, default=0) <= config.vanish[1]


def _preview(size: tuple[int, int]) -> tuple[int, int]:
    share = _PREVIEW / min(size)
    return round(size[0] * share), round(size[1] * share)
