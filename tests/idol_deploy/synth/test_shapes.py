import numpy as np
import pytest

from idol_deploy.synth.shapes import KINDS, draw_shape


@pytest.mark.parametrize("kind", KINDS)
def test_a_shape_is_its_own_and_has_a_surface(kind: str) -> None:
    first, again, other = (draw_shape(kind, name) for name in ("a", "a", "b"))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()
    alpha = first[..., 3]
    assert not alpha[0].any()
    assert not alpha[:, 0].any()
    assert 0.2 < (alpha >= 128).mean() < 0.85
    assert first[alpha == 255][:, :3].std(0).max() > 10
