from dataclasses import replace

import numpy as np
import pytest

from idol_deploy.synth.config import PRESETS, SynthConfig, synth_preset
from idol_deploy.synth.plan import draw_scene


@pytest.mark.parametrize("name", PRESETS)
def test_a_scene_keeps_to_its_settings(name: str) -> None:
    config = synth_preset(name)
    for seed in range(20):
        scene = draw_scene(np.random.default_rng(seed), config)
        assert config.instances[0] <= len(scene.actors) <= config.instances[1]
        assert config.occluders[0] <= len(scene.occluders) <= config.occluders[1]
        groups = [actor.group for actor in scene.actors]
        alike = sum(groups.count(group) > 1 for group in groups)
        assert alike == pytest.approx(config.look_alikes * len(groups), abs=1)
        for actor in scene.actors:
            assert config.scale[0] <= actor.size <= config.scale[1]
            assert actor.path.shape == (config.frames, 2)
            steps = np.linalg.norm(np.diff(actor.path, axis=0), axis=1)
            assert np.median(steps) < 2 * config.speed[1]


def _apart(config: SynthConfig, seed: int) -> float:
    """Return the smallest distance between the two actors of a video."""
    first, second = draw_scene(np.random.default_rng(seed), config).actors
    return float(np.linalg.norm(first.path - second.path, axis=1).min())


def test_moves_do_what_they_are_called() -> None:
    still = replace(SynthConfig(), instances=(2, 2), frames=40, camera=0, camera_jumps=0, hide=0, lurk=0)
    meeting, leaving = replace(still, cross=1, leave=0), replace(still, cross=0, leave=1)
    assert np.mean([_apart(meeting, seed) < 0.12 for seed in range(20)]) > 0.9
    half = np.array([256 / 160, 1]) / 2
    for seed in range(20):
        for actor in draw_scene(np.random.default_rng(seed), leaving).actors:
            outside = (np.abs(actor.path) > half).any(1)
            assert outside.any()
            assert not outside[0]
    hiding = replace(still, cross=0, leave=0, hide=1, occluders=(1, 1))
    hidden = 0
    for seed in range(40):
        scene = draw_scene(np.random.default_rng(seed), hiding)
        (occluder,) = scene.occluders
        for actor in scene.actors:
            if occluder.depth > actor.depth and (occluder.cover > actor.reach).all():
                behind = (np.abs(actor.path - occluder.place) + actor.reach <= occluder.cover + 1e-9).all(1)
                hidden += 1
                assert behind.sum() >= 2
    assert hidden > 10
