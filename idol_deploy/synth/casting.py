"""The choice of an identity and of colours for every instance."""

from collections.abc import Mapping, Sequence

import numpy as np

from idol_deploy.synth.config import SynthConfig
from idol_deploy.synth.identities import Identity
from idol_deploy.synth.layers import Paint
from idol_deploy.synth.scene import Actor
from idol_runtime.errors import ConfigError

__all__ = ["cast", "paint"]


def cast(
    rng: np.random.Generator, actors: Sequence[Actor], identities: Mapping[str, tuple[Identity, ...]]
) -> tuple[Identity, ...]:
    """Choose an identity for each actor.

    Look-alikes get the same identity. Other actors get one of another family, if there are enough families.

    Args:
        rng: source of randomness.
        actors: n instances.
        identities: available identities by kind.

    Raises:
        ConfigError: there are no identities.
    """
    if not identities:
        raise ConfigError("the split has no identities; choose other classes, or add cut-outs")
    kinds = sorted(identities)
    by_group: dict[int, Identity] = {}
    for group in sorted({actor.group for actor in actors}):
        families = {(identity.kind, identity.family) for identity in by_group.values()}
        for _ in range(20):
            pool = identities[kinds[int(rng.integers(len(kinds)))]]
            identity = pool[int(rng.integers(len(pool)))]
            if (identity.kind, identity.family) not in families:
                break
        by_group[group] = identity
    return tuple(by_group[actor.group] for actor in actors)


def paint(rng: np.random.Generator, actor: Actor, actors: Sequence[Actor], config: SynthConfig) -> Paint:
    """Choose colours for an actor: those of its group, varied between look-alikes by `config.difference`."""
    group = [other for other in actors if other.group == actor.group]
    place = next(i for i, other in enumerate(group) if other is actor) / len(group)
    # The seed is that of the group, so that all of its members draw the same numbers.
    shared = np.random.default_rng((int(actor.group), int(group[0].phase * 1e9)))
    start = float(shared.uniform(0, 2 * np.pi))
    turn = shared.uniform(-0.2, 0.2) + 2 * np.pi * config.difference * place
    thirds = np.array([0, 2, 4]) * np.pi / 3
    wave = np.cos(thirds + start + 2 * np.pi * place)
    tint = shared.uniform(0.9, 1.1) * (1 + 0.45 * config.difference * wave)
    if len(group) == 1:
        return Paint(float(turn), tint)
    spots = 1 - 0.8 * config.difference * np.clip(rng.random((6, 6)) * 2 - 0.9, 0, 1)
    return Paint(float(turn), tint, spots)
