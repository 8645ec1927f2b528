import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from idol_deploy.synth.trajectories import smooth_path, wander

_STOPS = st.lists(st.tuples(st.integers(1, 9), st.floats(-1, 1), st.floats(-1, 1)), min_size=1, max_size=8)


@given(_STOPS)
def test_a_way_meets_its_points_and_stays_between_them(stops: list[tuple[int, float, float]]) -> None:
    times = np.cumsum([step for step, _, _ in stops]).astype(float)
    points = np.array([point for _, *point in stops])
    way = smooth_path(times, points, np.arange(int(times[-1]) + 4))
    np.testing.assert_allclose(way[times.astype(int)], points, atol=1e-12)
    np.testing.assert_array_equal(way[: int(times[0])], np.repeat(points[:1], int(times[0]), 0))
    for i in range(len(times) - 1):
        part = way[int(times[i]) : int(times[i + 1]) + 1]
        low, high = points[i : i + 2].min(0), points[i : i + 2].max(0)
        assert ((part >= low - 1e-12) & (part <= high + 1e-12)).all()


def test_wandering_stays_within_its_size_and_is_smooth() -> None:
    way = wander(np.random.default_rng(0), 200, 0.5, 3)
    assert way.shape == (200, 3)
    assert np.abs(way).max() <= 0.5
    assert np.abs(np.diff(way, axis=0)).max() < 0.5 * 0.5
