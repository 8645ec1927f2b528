import numpy as np
import pytest

from idol_deploy.synth.textures import OCCLUDERS, background, draw_occluder, noise


@pytest.mark.parametrize("seed", range(12))
def test_a_background_is_not_flat(seed: int) -> None:
    image = background(np.random.default_rng(seed), (60, 90))
    assert image.shape == (60, 90, 3)
    assert image.std((0, 1)).max() > 6
    np.testing.assert_array_equal(image, background(np.random.default_rng(seed), (60, 90)))


@pytest.mark.parametrize(("kind", "cover"), OCCLUDERS.items())
def test_an_occluder_hides_what_it_says(kind: str, cover: float) -> None:
    for seed in range(20):
        rng = np.random.default_rng(seed)
        size = 128, int(rng.integers(60, 128))
        opaque = draw_occluder(rng, kind, size)[..., 3] >= 128
        margin = [int(np.ceil(side * (1 - cover) / 2)) for side in size]
        inner = opaque[margin[0] : size[0] - margin[0], margin[1] : size[1] - margin[1]]
        assert inner.all() if cover else 0.3 < opaque.mean() < 0.8


def test_noise_fills_its_range() -> None:
    field = noise(np.random.default_rng(0), (64, 64), 8)
    assert 0 <= field.min() < 0.2
    assert 0.8 < field.max() <= 1
