from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from idol_deploy.model.position import sine_position

RelativeError = Callable[[npt.ArrayLike, npt.ArrayLike], float]


def test_the_code_agrees_with_the_published_one(reference: Path, relative_error: RelativeError) -> None:
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
