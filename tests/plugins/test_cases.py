"""The inputs of the selftest: exact in their types, reproducible by seed, with finite expected outputs."""

import numpy as np
import pytest

from idol_plugins.cases import make_cases, pack, unpack


def test_bfloat16_is_rounded_as_ml_dtypes_rounds_it() -> None:
    bfloat16 = pytest.importorskip("ml_dtypes", reason="numpy has no bfloat16 of its own").bfloat16
    rng = np.random.default_rng(0)
    bits = rng.integers(0, 2**32, 20_000, np.uint32)
    numbers = np.concatenate([bits.view(np.float32), np.float32([0, -0.0, np.inf, -np.inf, np.nan, 3.4e38])])
    with np.errstate(all="ignore"):
        expected = numbers.astype(bfloat16).astype(np.float32)
    np.testing.assert_array_equal(unpack(pack(numbers, "bfloat16"), "bfloat16"), expected)


def test_inputs_are_exact_in_their_types() -> None:
    for case in make_cases(count=8):
        for array, dtype in ((case.value, case.dtype), (case.merged, case.merged_dtype)):
            np.testing.assert_array_equal(unpack(pack(array, dtype), dtype), array, case.title)


def test_a_seed_makes_the_same_cases_and_another_seed_others() -> None:
    first, second, other = (make_cases(seed, 4) for seed in (1, 1, 2))
    assert len({case.title for case in first}) == len(first)
    for a, b, c in zip(first, second, other, strict=True):
        np.testing.assert_array_equal(a.merged, b.merged)
        assert a.merged.size == 0 or not np.array_equal(a.merged, c.merged)


def test_most_outputs_are_finite_and_some_are_not() -> None:
    special = {case.name: case for case in make_cases(count=0) if case.dtype == "float32"}
    for name, case in special.items():
        assert case.expected.shape == case.expected_classic.shape == case.output_shape
        if case.expected.size:
            assert np.isfinite(case.expected).mean() > 0.5, name
            assert np.abs(case.expected[np.isfinite(case.expected)]).max() > 0 or name == "one of everything"
    for name in ("NaN logits", "infinite logits", "NaN values"):
        assert np.isnan(special[name].expected).any(), name
    assert special["no queries"].output_shape == (2, 0, 256)
    assert special["no images"].output_shape == (0, 3, 256)
