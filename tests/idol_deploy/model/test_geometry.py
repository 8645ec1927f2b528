from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from idol_deploy.model.geometry import build_geometry, level_shapes, sine_position

RelativeError = Callable[[npt.ArrayLike, npt.ArrayLike], float]


def _padding(height: int, width: int, padded: tuple[int, int]) -> Tensor:
    mask = torch.ones(1, *padded, dtype=torch.bool)
    mask[:, :height, :width] = False
    return mask


def test_without_padding_there_is_no_mask() -> None:
    geometry = build_geometry(torch.zeros(2, 64, 96, dtype=torch.bool))
    assert geometry.shapes == ((8, 12), (4, 6), (2, 3), (1, 2))
    assert geometry.padding is None
    assert torch.equal(geometry.valid_ratios, torch.ones(2, 4, 2))
    tokens = 96 + 24 + 6 + 2
    assert geometry.position.shape == (2, tokens, 256)
    assert geometry.encoder_reference.shape == (2, tokens, 4, 2)


def test_masks_agree_with_the_published_ones(reference: Path) -> None:
    arrays = np.load(reference / "ref_pad_slim.npz")
    geometry = build_geometry(_padding(120, 200, (128, 224)))
    assert geometry.padding is not None
    levels = geometry.padding.split([h * w for h, w in geometry.shapes], 1)
    for level, (mask, shape) in enumerate(zip(levels, geometry.shapes, strict=True)):
        assert np.array_equal(mask.reshape(shape), arrays[f"mask{level}"])


def test_the_last_level_s_mask_comes_from_stride_8() -> None:
    # Row 72 is padded, and is row 9 of stride 8; stride 64 has 2 rows of the 10, so it samples row 5 ...
    geometry = build_geometry(_padding(70, 96, (80, 96)))
    assert geometry.shapes[3] == (2, 2)
    assert geometry.padding is not None
    # ... where the mask is clear, though its second row begins at pixel 64.
    assert not geometry.padding[0, -4:].any()
    assert geometry.valid_ratios[0, 3].tolist() == [1.0, 1.0]


def test_references_are_cell_centres_of_the_padded_maps() -> None:
    geometry = build_geometry(_padding(64, 64, (64, 128)))
    own = geometry.encoder_reference[0, : 8 * 16, 0].reshape(8, 16, 2)
    assert own[0, 0].tolist() == pytest.approx([0.5 / 16, 0.5 / 8])
    assert own[7, 15].tolist() == pytest.approx([15.5 / 16, 7.5 / 8])


@given(st.integers(1, 2000), st.integers(1, 2000))
def test_sides_are_rounded_up(height: int, width: int) -> None:
    for stride, (h, w) in zip((8, 16, 32, 64), level_shapes(height, width), strict=True):
        assert (h - 1) * stride < height <= h * stride
        assert (w - 1) * stride < width <= w * stride


def test_the_position_code_agrees_with_the_published_one(
    reference: Path, relative_error: RelativeError
) -> None:
    unit = np.load(reference / "unit_pos.npz")
    assert relative_error(sine_position(torch.from_numpy(unit["mask"])), unit["pos"]) < 1e-6


def test_padding_does_not_change_the_code_of_the_image() -> None:
    bare = torch.zeros(1, 5, 7, dtype=torch.bool)
    padded = torch.ones(1, 8, 9, dtype=torch.bool)
    padded[:, :5, :7] = False
    torch.testing.assert_close(sine_position(padded)[..., :5, :7], sine_position(bare), rtol=0, atol=1e-6)


def test_the_first_half_is_y_and_the_second_x() -> None:
    code = sine_position(torch.zeros(1, 6, 4, dtype=torch.bool), channels=64)
    assert code.shape == (1, 64, 6, 4)
    y, x = code[0, :32], code[0, 32:]
    assert torch.equal(y, y[..., :1].expand_as(y))
    assert torch.equal(x, x[:, :1].expand_as(x))
