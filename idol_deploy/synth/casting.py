"""Who plays which part, and in which colours."""

from collections.abc import Mapping, Sequence

import numpy as np

from idol_deploy.synth.config import SynthConfig
from idol_deploy.synth.identities import Identity
from idol_deploy.synth.layers import Paint
from idol_deploy.synth.scene import Actor
from idol_runtime.errors import ConfigError

__all__ = ["cast", "paint"]


def cast(
    rng: np.random.Generator, actors: Sequence[Actor], among: Mapping[str, tuple[Identity, ...]]
) -> tuple[Identity, ...]:
    """An identity for each actor; look-alikes have the same, and nobody else one of its family, if there are enough.

    Args:
        rng: decides it.
        actors: n.
        among: identities by kind.

    Raises:
        ConfigError: there are none.
    """
    if not among:
        raise ConfigError("no identity is on this side of the split; take other classes, or add cut-outs")
    kinds = sorted(among)
    of_group: dict[int, Identity] = {}
    for group in sorted({actor.group for actor in actors}):
        taken = {(identity.kind, identity.family) for identity in of_group.values()}
        for _ in range(20):
            pool = among[kinds[int(rng.integers(len(kinds)))]]
            identity = pool[int(rng.integers(len(pool)))]
            if (identity.kind, identity.family) not in taken:
                break
        of_group[group] = identity
    return tuple(of_group[actor.group] for actor in actors)


def paint(rng: np.random.Generator, actor: Actor, actors: Sequence[Actor], config: SynthConfig) -> Paint:
    """Colours of an actor: those of its group, changed by its place in it as far as `config.difference` says."""
    alike = [other for other in actors if other.group == actor.group]
    place = next(i for i, other in enumerate(alike) if other is actor) / len(alike)
    # Every member draws the same numbers for the group.
    shared = np.random.default_rng((int(actor.group), int(alike[0].phase * 1e9)))
    start = float(shared.uniform(0, 2 * np.pi))
    turn = shared.uniform(-0.2, 0.2) + 2 * np.pi * config.difference * place
    thirds = np.array([0, 2, 4]) * np.pi / 3
    tint = shared.uniform(0.9, 1.1) * (
        1 + 0.45 * config.difference * np.cos(thirds + start + 2 * np.pi * place)
    )
    if len(alike) == 1:
        return Paint(float(turn), tint)
    spots = 1 - 0.8 * config.difference * np.clip(rng.random((6, 6)) * 2 - 0.9, 0, 1)
    return Paint(float(turn), tint, spots)
