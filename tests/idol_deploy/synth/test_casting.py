import numpy as np
import pytest

from idol_deploy.synth.casting import cast, paint
from idol_deploy.synth.config import synth_preset
from idol_deploy.synth.identities import Identity, Library, recolour
from idol_deploy.synth.plan import draw_scene
from idol_runtime.errors import ConfigError


def test_look_alikes_are_of_one_identity_and_others_of_no_family(library: Library) -> None:
    among = library.identities("val")
    for seed in range(20):
        rng = np.random.default_rng(seed)
        actors = draw_scene(rng, synth_preset("hard")).actors
        chosen = cast(rng, actors, among)
        for one, identity in zip(actors, chosen, strict=True):
            assert identity in among[identity.kind]
            for other, their in zip(actors, chosen, strict=True):
                assert (one.group == other.group) == (identity.family == their.family)


def test_look_alikes_hardly_differ_in_the_hard_preset(library: Library) -> None:
    picture = next(one for one in library.all if one.name == "1f404").pictures()[0]

    def difference(config: object) -> float:
        differences = []
        for seed in range(20):
            rng = np.random.default_rng(seed)
            actors = draw_scene(rng, config).actors
            pair = next(([a, b] for a in actors for b in actors if a is not b and a.group == b.group), None)
            if pair:
                paints = [paint(rng, one, actors, config) for one in pair]
                first, second = (recolour(picture, p.turn, p.tint, p.spots).astype(float) for p in paints)
                differences.append(np.abs(first - second)[picture[..., 3] > 0].mean())
        return float(np.mean(differences))

    # In levels of 255. The noise of the preset hard is 4: many pixels together show the difference, a few do not.
    assert 2 < difference(synth_preset("hard")) < 12
    assert difference(synth_preset("easy")) > 25


def test_a_cast_without_identities_is_refused() -> None:
    with pytest.raises(ConfigError, match="add cut-outs"):
        cast(np.random.default_rng(0), [], {})


def test_a_cast_from_one_identity_is_possible() -> None:
    rng = np.random.default_rng(0)
    actors = draw_scene(rng, synth_preset("easy")).actors
    only = Identity("ring", "ring-00", "ring-00")
    assert set(cast(rng, actors, {"ring": (only,)})) == {only}
