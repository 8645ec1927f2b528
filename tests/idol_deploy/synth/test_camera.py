from dataclasses import replace

import numpy as np

from idol_deploy.synth.camera import draw_camera
from idol_deploy.synth.config import SynthConfig


def test_what_the_frame_shows_can_be_found_in_the_world() -> None:
    camera = draw_camera(np.random.default_rng(0), SynthConfig(camera=0.5))
    for t in (0, 11, 23, 40):
        point = np.array([0.3, -0.2])
        np.testing.assert_allclose(camera.to_frame(t, camera.to_world(t, point)), point, atol=1e-12)
    np.testing.assert_allclose(np.linalg.det(camera.matrices[..., :2]), camera.zoom**2)


def test_jumps_are_sudden_and_the_rest_is_not() -> None:
    def fastest(jumps: float) -> float:
        config = replace(SynthConfig(), frames=40, camera_jumps=jumps)
        places = [draw_camera(np.random.default_rng(seed), config).place for seed in range(20)]
        return float(np.median([np.linalg.norm(np.diff(way, axis=0), axis=1).max() for way in places]))

    assert fastest(0) < 0.06
    assert fastest(5) > 0.1
    still = draw_camera(np.random.default_rng(0), replace(SynthConfig(), camera=0, camera_jumps=0))
    np.testing.assert_array_equal(still.matrices, np.repeat(np.eye(3)[None, :2], 24, 0))
