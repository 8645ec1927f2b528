"""Equal to one result, one instance and one threshold at a time."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from idol_deploy.evaluate.matching import match

THRESHOLDS = np.array([0.5, 0.6, 1.0])
A = 2


def _fates(
    overlaps: np.ndarray,
    threshold: float,
    ignored: np.ndarray,
    crowd: np.ndarray,
    outside: np.ndarray,
    nameless: np.ndarray,
) -> list[str]:
    free = [True] * len(crowd)
    fates = []
    for d, row in enumerate(overlaps):
        # The last of equals wins, and one that counts wins over one that does not.
        able = [g for g in range(len(crowd)) if (free[g] or crowd[g]) and row[g] >= min(threshold, 1 - 1e-10)]
        g = max(able, key=lambda g: (not ignored[g], row[g], g), default=None)
        if g is not None:
            free[g] = False
        if g is not None and ignored[g]:
            fates.append("aside")
        elif g is not None and not nameless[g]:
            fates.append("hit")
        else:
            fates.append("aside" if outside[d] else "miss")
    return fates


@settings(max_examples=150)
@given(data=st.data(), D=st.integers(0, 5), G=st.integers(0, 4))
def test_equals_one_at_a_time(data: st.DataObject, D: int, G: int) -> None:
    def flags(*shape: int) -> np.ndarray:
        return data.draw(arrays(np.bool_, shape))

    overlaps = data.draw(arrays(np.float64, (D, G), elements=st.sampled_from([0.0, 0.5, 0.55, 0.6, 1.0])))
    ignored, crowd, outside, nameless = flags(A, G), flags(G), flags(A, D), flags(G)
    found = match(overlaps, THRESHOLDS, ignored, crowd, outside, nameless)
    for a in range(A):
        for t, threshold in enumerate(THRESHOLDS):
            fates = _fates(overlaps, threshold, ignored[a], crowd, outside[a], nameless)
            assert found.hit[a, t].tolist() == [fate == "hit" for fate in fates]
            assert found.miss[a, t].tolist() == [fate == "miss" for fate in fates]
