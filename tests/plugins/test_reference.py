"""The reference implementation against the published operator's arrays, and against first principles."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from idol_plugins.reference import (
    deformable_attention,
    deformable_attention_backward,
    ms_deform_attn,
)


def test_equals_the_published_operator(reference: Path) -> None:
    unit = np.load(reference / "unit_ms_deform.npz")
    shapes = tuple(map(tuple, unit["shapes"].tolist()))
    out = ms_deform_attn(unit["value"], shapes, unit["sampling_locations"], unit["attention_weights"])
    assert np.linalg.norm(out - unit["out"]) <= 1e-6 * np.linalg.norm(unit["out"])


def test_a_cell_centre_reads_that_cell_and_outside_reads_nothing() -> None:
    value = np.arange(12.0).reshape(1, 12, 1, 1)
    centres = np.array([[(c + 0.5) / 4, (r + 0.5) / 3] for r in range(3) for c in range(4)])
    far = np.array([[-1.0, 0.5], [0.5, 2.0], [1e30, -1e30]])
    locations = np.concatenate([centres, far])[None, :, None, None, None]
    out = ms_deform_attn(value, ((3, 4),), locations, np.ones((1, 15, 1, 1, 1)))
    assert out[0, :, 0] == pytest.approx([*range(12), 0, 0, 0])


def test_the_edge_of_the_map_is_half_a_cell_deep() -> None:
    out = ms_deform_attn(
        np.ones((1, 4, 1, 1)), ((2, 2),), np.zeros((1, 1, 1, 1, 1, 2)), np.ones((1, 1, 1, 1, 1))
    )
    assert out == pytest.approx(0.25)


@given(st.integers(0, 2**32 - 1))
def test_constant_maps_are_reproduced_wherever_all_samples_lie_inside(seed: int) -> None:
    rng = np.random.default_rng(seed)
    shapes = ((5, 7), (3, 4))
    value = np.broadcast_to(rng.normal(size=(1, 1, 2, 3)), (1, 47, 2, 3))
    reference = rng.uniform(0.3, 0.7, (1, 6, 2, 4)) * [1, 1, 0.4, 0.4]
    offsets, logits = rng.uniform(-1, 1, (1, 6, 2, 2, 4, 2)), rng.normal(size=(1, 6, 2, 8))
    out = deformable_attention(value, shapes, offsets, logits, reference)
    assert out == pytest.approx(np.broadcast_to(value[:, :1].reshape(1, 1, 6), out.shape))


@pytest.mark.parametrize("width", [2, 4])
def test_equals_the_torch_form_and_its_autograd(width: int) -> None:
    torch = pytest.importorskip("torch", reason="compares with the implementation in torch")
    from idol_deploy.model import deform_attn

    rng = np.random.default_rng(width)
    shapes = ((6, 9), (3, 5), (2, 3), (1, 2))
    value, reference = rng.normal(size=(2, 77, 8, 4)), rng.uniform(0, 1, (1, 5, 4, width))
    offsets, logits = rng.normal(size=(2, 5, 8, 4, 4, 2)) * 3, rng.normal(size=(2, 5, 8, 16))
    merged = np.concatenate([offsets.reshape(2, 5, -1), logits.reshape(2, 5, -1)], -1)
    leaves = [torch.from_numpy(array).requires_grad_() for array in (value, merged, reference)]
    expected = deform_attn.deformable_attention(leaves[0], shapes, leaves[1], leaves[2])
    found = deformable_attention(value, shapes, offsets, logits, reference)
    assert found == pytest.approx(expected.detach().numpy(), rel=1e-9, abs=1e-9)
    grad = rng.normal(size=found.shape)
    expected.backward(torch.from_numpy(grad))
    of_value, of_offsets, of_logits, of_reference = deformable_attention_backward(
        grad, value, shapes, offsets, logits, reference
    )
    of_merged = np.concatenate([of_offsets.reshape(2, 5, -1), of_logits.reshape(2, 5, -1)], -1)
    for gradient, leaf in zip((of_value, of_merged, of_reference), leaves, strict=True):
        assert gradient == pytest.approx(leaf.grad.numpy(), rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("width", [2, 4])
@pytest.mark.parametrize("images", [1, 2])
def test_gradients_equal_finite_differences(width: int, images: int) -> None:
    rng = np.random.default_rng(width)
    shapes = ((3, 4), (1, 1))
    arrays = (
        rng.normal(size=(2, 13, 2, 2)),
        rng.normal(size=(2, 3, 2, 2, 2, 2)) * 2,
        rng.normal(size=(2, 3, 2, 4)),
        rng.uniform(-0.1, 1.1, (images, 3, 2, width)),
    )
    grad = rng.normal(size=(2, 3, 4))
    found = deformable_attention_backward(grad, arrays[0], shapes, *arrays[1:])
    step = 1e-6
    for array, gradient in zip(arrays, found, strict=True):
        expected = np.empty_like(array)
        for at in np.ndindex(array.shape):
            here, ends = array[at], []
            for array[at] in (here - step, here + step):
                ends.append((deformable_attention(arrays[0], shapes, *arrays[1:]) * grad).sum())
            array[at] = here
            expected[at] = (ends[1] - ends[0]) / (2 * step)
        assert gradient == pytest.approx(expected, rel=1e-6, abs=1e-7)
