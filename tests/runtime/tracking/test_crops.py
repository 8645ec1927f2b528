"""Mask crops: round trip, and boxes as small as possible."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from idol_runtime.tracking.crops import crop_masks, paste_masks

MASKS = arrays(np.bool_, st.tuples(st.integers(0, 3), st.integers(1, 9), st.integers(1, 9)))


@given(MASKS)
def test_there_and_back(masks: NDArray[np.bool_]) -> None:
    crops = crop_masks(masks)
    np.testing.assert_array_equal(paste_masks(crops, masks.shape[1:]), masks)
    for crop in crops:
        edges = (
            (crop.pixels[0], crop.pixels[-1], crop.pixels[:, 0], crop.pixels[:, -1])
            if crop.pixels.size
            else ()
        )
        assert all(edge.any() for edge in edges), "the box can be smaller"
