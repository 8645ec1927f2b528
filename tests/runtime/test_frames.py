"""Tests of the frame check and of the fixes in its messages."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from numpy.typing import NDArray

from idol_runtime.errors import FrameError
from idol_runtime.frames import Frame, check_frame

GOOD = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)


def test_a_good_frame_is_passed_on_uncopied() -> None:
    assert check_frame(GOOD) is GOOD


def test_views_become_contiguous_with_the_same_pixels() -> None:
    checked = check_frame(GOOD[::-1, ::2])
    assert checked.flags.c_contiguous
    np.testing.assert_array_equal(checked, GOOD[::-1, ::2])


@pytest.mark.parametrize(
    ("array", "fix"),
    [
        (None, r"numpy\.asarray\(shot\)"),
        ([[[1, 2, 3]]], r"numpy\.asarray\(shot\)"),
        (GOOD[:, :, 0], r"cv2\.cvtColor\(shot, cv2\.COLOR_GRAY2RGB\)"),
        (GOOD[:, :, :1], r"numpy\.repeat\(shot, 3, axis=2\)"),
        (np.zeros((4, 6, 4), np.uint8), r"shot\[:, :, :3\]"),
        (np.zeros((3, 4, 6), np.uint8), r"shot\.transpose\(1, 2, 0\)"),
        (np.zeros((1, 4, 6, 3), np.uint8), "one by one"),
        (np.zeros((4, 6, 2), np.uint8), "three channels"),
        (np.zeros(4, np.uint8), "three channels"),
        (np.zeros((0, 6, 3), np.uint8), "no pixels"),
        (GOOD.astype(np.float32), r"\(255 \* shot\)"),
        (GOOD.astype(np.uint16), r"shot >> 8"),
        (GOOD.astype(np.int64), r"shot\.astype\('uint8'\)"),
        (GOOD > 0, r"shot\.astype\('uint8'\) \* 255"),
        (GOOD.astype(object), "8-bit"),
    ],
)
def test_what_is_no_frame_is_told_its_fix(array: object, fix: str) -> None:
    with pytest.raises(FrameError, match=fix) as caught:
        check_frame(array, name="shot")
    assert str(caught.value).startswith("shot must be")
    assert "\n" not in str(caught.value)


DTYPES = st.sampled_from([np.uint8, np.float32, np.bool_, np.int16])


@given(DTYPES.flatmap(lambda dtype: arrays(dtype, array_shapes(min_dims=1, max_dims=4, max_side=4))))
def test_any_array_is_a_frame_or_a_frame_error(array: NDArray[np.generic]) -> None:
    is_frame = array.ndim == 3 and array.shape[2] == 3 and array.dtype == np.uint8
    if is_frame:
        np.testing.assert_array_equal(check_frame(array), array)
    else:
        with pytest.raises(FrameError):
            check_frame(array)


def test_size_is_height_then_width() -> None:
    assert Frame(0, 0.0, GOOD).size == (4, 6)
