"""Integers, ranges and shifts compared with searches, sums and convolutions in numpy."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from idol_export.precision.rounding import integers, least_squares_range, shift

RNG = np.random.default_rng(0)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([(4, 6, 3, 3), (4, 6, 1, 1), (5, 1, 3, 3)]))
def test_sums_of_two_neighbours_never_leave_16_bits(seed: int, shape: tuple[int, ...]) -> None:
    """In both orders of summation, 255 times two weights does not saturate `vpmaddubsw`."""
    rng = np.random.default_rng(seed)
    weight = (rng.standard_t(2, shape) * 10.0 ** rng.integers(-3, 3)).astype(np.float32)
    rounded, scales = integers(weight, 0, paired=True)
    for order in (rounded, np.moveaxis(rounded, 1, -1)):
        rows = order.reshape(len(order), -1).astype(np.int64)
        sums = 255 * (rows[:, 1:] + rows[:, :-1])
        assert not sums.size or np.abs(sums).max() < 2**15
    steps = scales.reshape(-1, 1, 1, 1)
    assert np.all(np.abs(rounded * steps - weight) <= steps * 0.5001)


def _correlated(rng: np.random.Generator, count: int) -> np.ndarray:
    """Return a covariance of inputs with a few dominant factors."""
    mixed = rng.normal(size=(count, 3)) @ rng.normal(size=(3, 500)) + 0.3 * rng.normal(size=(count, 500))
    return np.cov(mixed).astype(np.float32)


def _output_error(
    weight: np.ndarray, rounded: np.ndarray, scales: np.ndarray, covariance: np.ndarray
) -> float:
    error = (rounded * scales[:, None, None, None] - weight).reshape(len(weight), -1).astype(np.float64)
    return float(np.einsum("mk,kl,ml->", error, covariance, error))


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32 - 1), st.booleans(), st.sampled_from([(6, 16, 3, 3), (6, 150, 1, 1)]))
def test_errors_of_inputs_that_go_together_take_each_other_back(
    seed: int, paired: bool, shape: tuple[int, ...]
) -> None:
    """Also with more inputs than one block."""
    rng = np.random.default_rng(seed)
    weight = rng.normal(size=shape).astype(np.float32)
    covariance = _correlated(rng, int(np.prod(shape[1:])))
    plain, scales = integers(weight, 0, paired=paired)
    found, same = integers(weight, 0, paired=paired, covariance=covariance)
    np.testing.assert_array_equal(scales, same)
    ours, theirs = (_output_error(weight, rounded, scales, covariance) for rounded in (found, plain))
    assert ours < 0.5 * theirs
    assert np.abs(found.astype(int)).max() <= 127
    if paired:
        for order in (found, np.moveaxis(found, 1, -1)):
            rows = order.reshape(len(order), -1).astype(np.int64)
            assert np.abs(rows[:, 1:] + rows[:, :-1]).max() <= 128


@pytest.mark.parametrize("axis", [0, 1])
def test_inputs_that_have_nothing_in_common_are_rounded_to_the_nearest(axis: int) -> None:
    """Also for inputs that are always 0."""
    weight = RNG.normal(size=(40, 40)).astype(np.float32)
    plain, _ = integers(weight, axis, paired=False)
    for variance in (RNG.uniform(1, 2, 40), np.zeros(40)):
        found, _ = integers(weight, axis, paired=False, covariance=np.diag(variance).astype(np.float32))
        np.testing.assert_array_equal(found, plain)


def test_pairs_cost_less_than_a_bit() -> None:
    """The limit costs nothing if no two neighbours are both large."""
    weight = np.zeros((1, 6), np.float32)
    weight[0] = (1, -1, 1, 0, 0.2, 0.1)
    (_, alone), (_, paired) = (integers(weight, 0, paired=way) for way in (False, True))
    np.testing.assert_array_equal(alone, paired)
    weight[0, 1] = 1
    assert integers(weight, 0, paired=True)[1] == pytest.approx(2 * alone)


def _error(values: np.ndarray, low: float, high: float) -> float:
    step = (high - low) / 255
    rounded = np.clip(np.rint((values - low) / step), 0, 255) * step + low
    return float(((rounded - values) ** 2).mean())


@pytest.mark.parametrize("rectified", [False, True])
def test_a_range_cuts_off_what_is_rare(rectified: bool) -> None:
    values = RNG.uniform(-1, 1, 2**20)
    values[0] = 2.5
    if rectified:
        values = np.maximum(values, 0)
    low, high = values.min(), values.max()
    counts = np.histogram(values, 2048, (low, high))[0].astype(float)
    found = least_squares_range(counts, low, high, symmetric=False)
    shares = np.linspace(0.3, 1, 8)
    best = min(_error(values, low * a, high * b) for a in (shares if low < 0 else [1]) for b in shares)
    assert _error(values, *found) < 1.05 * best < 0.8 * _error(values, low, high)


def test_a_shift_is_the_mean_of_what_rounding_adds() -> None:
    """For a grouped convolution of constant channels, and for a product."""
    weight = RNG.normal(size=(6, 2, 3, 3)).astype(np.float32)
    rounded = weight + RNG.normal(size=weight.shape).astype(np.float32) / 10
    mean = RNG.normal(size=4).astype(np.float32)
    answers = [
        [sum((kernel[i] * mean[2 * (m // 3) + i]).sum() for i in range(2)) for m, kernel in enumerate(w)]
        for w in (rounded, weight)
    ]
    np.testing.assert_allclose(shift(weight, rounded, mean), np.subtract(*answers), atol=1e-5)
    matrix, coarse = weight[:, :, 0, 0].T, rounded[:, :, 0, 0].T
    np.testing.assert_allclose(
        shift(matrix, coarse, mean[:2]), mean[:2] @ coarse - mean[:2] @ matrix, atol=1e-6
    )
