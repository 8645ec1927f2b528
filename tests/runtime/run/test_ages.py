"""Percentiles of frame ages against numpy's."""

import numpy as np

from idol_runtime.run.ages import FrameAges


def test_percentiles_are_those_of_the_ages_within_a_bin() -> None:
    rng = np.random.default_rng(0)
    samples = rng.lognormal(np.log(0.03), 1.0, 20_000)
    ages = FrameAges()
    for age_s in samples:
        ages.add(float(age_s))
    for percent in (50, 90, 99, 99.9):
        exact = float(np.percentile(samples, percent, method="inverted_cdf"))
        assert exact <= ages.percentile(percent) <= 1.06 * exact
    assert ages.count == len(samples)
    assert str(ages) == f"{1e3 * ages.percentile(50):.0f} ms (p50), {1e3 * ages.percentile(99):.0f} ms (p99)"


def test_ages_beyond_the_bins_are_counted_and_none_is_zero() -> None:
    ages = FrameAges()
    assert ages.percentile(99) == 0
    for age_s in (-1.0, 0.0, 1e9):
        ages.add(age_s)
    assert ages.count == 3
    assert ages.percentile(50) < 1.1e-4
    assert ages.percentile(100) > 1000
