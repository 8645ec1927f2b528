"""Run lengths: compared with an encoder written from the format alone, and damaged input."""

import contextlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from idol_runtime.errors import FrameError
from idol_runtime.tracking.crops import MaskCrop, paste_masks
from idol_runtime.tracking.rle import decode_rle, encode_crops, encode_rle, encode_rles

MASKS = arrays(np.bool_, st.tuples(st.integers(1, 24), st.integers(1, 24)))


def encode_by_definition(mask: NDArray[np.bool_]) -> str:
    """Return COCO's compressed run lengths, computed run by run and digit by digit."""
    runs, value = [0], False
    for pixel in mask.T.ravel().tolist():
        if pixel != value:
            runs.append(0)
            value = pixel
        runs[-1] += 1
    text = ""
    for i, run in enumerate(runs):
        rest = run - runs[i - 2] if i > 2 else run
        more = True
        while more:
            digit, rest = rest & 31, rest >> 5
            more = rest != (-1 if digit & 16 else 0)
            text += chr(48 + digit + 32 * more)
    return text


@given(MASKS)
def test_encoder_agrees_with_the_definition(mask: NDArray[np.bool_]) -> None:
    assert encode_rle(mask) == {"size": list(mask.shape), "counts": encode_by_definition(mask)}


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools on numpy 2
def test_encoder_agrees_with_pycocotools() -> None:
    coco = pytest.importorskip("pycocotools.mask")
    masks = np.random.default_rng(0).random((4, 61, 300)) > [[[0.001]], [[0.1]], [[0.5]], [[0.9999]]]
    for mask, rle in zip(masks, encode_rles(masks), strict=True):
        assert coco.encode(np.asfortranarray(mask, dtype=np.uint8))["counts"].decode() == rle["counts"]


@given(MASKS, st.integers(0, 3), st.integers(0, 3))
def test_a_box_may_hold_more_than_the_mask(mask: NDArray[np.bool_], top: int, left: int) -> None:
    height, width = mask.shape
    crop = MaskCrop(top, left, mask)
    size = height + top, width + left + 1
    assert encode_crops([crop], size)[0]["counts"] == encode_by_definition(paste_masks([crop], size)[0])


@given(MASKS)
def test_round_trip(mask: NDArray[np.bool_]) -> None:
    decoded = decode_rle(encode_rle(mask))
    assert decoded.dtype == np.bool_
    np.testing.assert_array_equal(decoded, mask)


def test_long_runs_round_trip() -> None:
    mask = np.zeros((720, 1280), np.bool_)
    mask[100:700, 3:1270] = True
    mask[300:310, 500:900] = False
    rle = encode_rle(mask)
    assert rle["counts"] == encode_by_definition(mask)
    np.testing.assert_array_equal(decode_rle({**rle, "counts": rle["counts"].encode()}), mask)


def test_batch_equals_its_masks_one_by_one() -> None:
    masks = np.random.default_rng(0).random((3, 9, 14)) > 0.5
    assert encode_rles(masks) == [encode_rle(mask) for mask in masks]
    assert encode_rles(masks[:0]) == []


@pytest.mark.parametrize(
    "masks", [np.zeros((1, 4, 4), np.uint8), np.zeros((4, 4), np.bool_), np.zeros((1, 0, 4), np.bool_)]
)
def test_what_is_no_mask_is_refused(masks: NDArray[np.generic]) -> None:
    with pytest.raises(FrameError, match=r"must be \[n, H, W\] bool"):
        encode_rles(masks)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "rle",
    [
        {"size": [4, 4], "counts": ""},
        {"size": [4, 4], "counts": "0"},
        {"size": [4, 4], "counts": "o"},
        {"size": [4, 4], "counts": "ooooooooo"},
        {"size": [4, 4], "counts": "\x01"},
        {"size": [4, 4], "counts": "é"},
        {"size": [4, 4], "counts": 16},
        {"size": [4, 4], "counts": [16]},
        {"size": [4], "counts": "`0"},
        {"size": [-4, -4], "counts": "`0"},
        {"size": None, "counts": "`0"},
        {"counts": "`0"},
        {"size": [4, 5], "counts": "`0"},
        {"size": [4, 4], "counts": "P1Pn0"},
    ],
)
def test_damage_is_reported(rle: dict[str, object]) -> None:
    with pytest.raises(FrameError, match="encode_rle"):
        decode_rle(rle)


@given(st.binary(max_size=12))
def test_any_bytes_decode_or_are_refused(counts: bytes) -> None:
    with contextlib.suppress(FrameError):
        assert decode_rle({"size": [3, 3], "counts": counts}).shape == (3, 3)
