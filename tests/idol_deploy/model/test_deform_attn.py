import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from idol_deploy.model.deform_attn import DeformableAttention, Shapes, deformable_attention, ms_deform_attn

RelativeError = Callable[[npt.ArrayLike, npt.ArrayLike], float]


def _by_hand(value: Tensor, shapes: Shapes, locations: Tensor, weights: Tensor) -> Tensor:
    """Compute the definition, one sample at a time, in float64."""
    N, _, M, D = value.shape
    Q = locations.shape[1]
    out = torch.zeros(N, Q, M, D, dtype=torch.float64)
    start = 0
    for level, (h, w) in enumerate(shapes):
        maps = value[:, start : start + h * w].double().reshape(N, h, w, M, D)
        start += h * w
        for n, q, m, p in np.ndindex(N, Q, M, locations.shape[4]):
            x, y = (locations[n, q, m, level, p].double() * torch.tensor([w, h]) - 0.5).tolist()
            weight = weights[n, q, m, level, p].double()
            for row in (math.floor(y), math.floor(y) + 1):
                for column in (math.floor(x), math.floor(x) + 1):
                    if 0 <= row < h and 0 <= column < w:
                        share = (1 - abs(y - row)) * (1 - abs(x - column))
                        out[n, q, m] += weight * share * maps[n, row, column, m]
    return out.flatten(2)


def test_the_operator_agrees_with_the_published_one(reference: Path, relative_error: RelativeError) -> None:
    unit = np.load(reference / "unit_ms_deform.npz")
    out = ms_deform_attn(
        torch.from_numpy(unit["value"]),
        tuple((int(h), int(w)) for h, w in unit["shapes"]),
        torch.from_numpy(unit["sampling_locations"]),
        torch.from_numpy(unit["attention_weights"]),
    )
    assert relative_error(out, unit["out"]) < 1e-6


@settings(max_examples=25, deadline=None)
@given(
    sizes=st.lists(st.tuples(st.integers(1, 4), st.integers(1, 4)), min_size=1, max_size=3),
    points=st.integers(1, 3),
    reach=st.sampled_from([0.1, 1.0, 3.0]),
    seed=st.integers(0, 2**31),
)
def test_the_operator_agrees_with_its_definition(
    sizes: list[tuple[int, int]], points: int, reach: float, seed: int
) -> None:
    torch.manual_seed(seed)
    N, Q, M, D = 2, 3, 2, 3
    value = torch.randn(N, sum(h * w for h, w in sizes), M, D)
    locations = 0.5 + reach * torch.randn(N, Q, M, len(sizes), points, 2)
    weights = torch.rand(N, Q, M, len(sizes), points)
    out = ms_deform_attn(value, tuple(sizes), locations, weights)
    torch.testing.assert_close(
        out.double(), _by_hand(value, tuple(sizes), locations, weights), rtol=1e-4, atol=1e-4
    )


def test_points_move_by_cells_and_boxes_by_their_sides() -> None:
    shapes = ((4, 8),)
    value = torch.arange(32.0).reshape(1, 32, 1, 1)
    offsets = torch.tensor([[[1.0, 0.0, 0.0, 1.0]]])
    logits = torch.zeros(1, 1, 2)
    centre = torch.tensor([2.5 / 8, 1.5 / 4]).reshape(1, 1, 1, 2)
    # The cell to the right is 11, the cell below is 18.
    assert deformable_attention(
        value, shapes, torch.cat((offsets, logits), -1), centre
    ).item() == pytest.approx(14.5)
    # With two points, an offset of 4 is the side of the box: 2 cells wide, 1 cell high.
    box = torch.cat((centre, torch.tensor([2 / 8, 1 / 4]).reshape(1, 1, 1, 2)), -1)
    assert deformable_attention(
        value, shapes, torch.cat((4 * offsets, logits), -1), box
    ).item() == pytest.approx(15.0)


def test_one_reference_serves_a_batch() -> None:
    torch.manual_seed(0)
    shapes = ((3, 4), (2, 2))
    value, merged, reference = torch.randn(3, 16, 2, 4), torch.randn(3, 5, 36), torch.rand(1, 5, 2, 2)
    shared = deformable_attention(value, shapes, merged, reference)
    own = deformable_attention(value, shapes, merged, reference.repeat(3, 1, 1, 1))
    assert torch.equal(shared, own)


def test_padded_tokens_count_as_zero() -> None:
    torch.manual_seed(0)
    attention = DeformableAttention(dim=8, levels=1, heads=2, points=2)
    tokens, query, reference = torch.randn(1, 12, 8), torch.randn(1, 12, 8), torch.rand(1, 12, 1, 2)
    padding = torch.arange(12).remainder(4)[None] == 3
    first = attention(query, reference, tokens, ((3, 4),), padding)
    changed = tokens + 100.0 * padding[..., None]
    assert torch.equal(attention(query, reference, changed, ((3, 4),), padding), first)
    assert not torch.equal(attention(query, reference, changed, ((3, 4),), None), first)


def test_the_core_can_be_replaced() -> None:
    attention = DeformableAttention(dim=8, levels=1, heads=2, points=2)
    seen: list[tuple[int, ...]] = []

    def core(value: Tensor, shapes: Shapes, merged: Tensor, reference: Tensor) -> Tensor:
        seen.extend(tuple(t.shape) for t in (value, merged, reference))
        return deformable_attention(value, shapes, merged, reference)

    inputs = (torch.randn(1, 5, 8), torch.rand(1, 5, 1, 4), torch.randn(1, 12, 8), ((3, 4),), None)
    wanted = attention(*inputs)
    attention.core = core
    assert torch.equal(attention(*inputs), wanted)
    assert seen == [(1, 12, 2, 4), (1, 5, 12), (1, 5, 1, 4)]


@pytest.mark.parametrize("narrow", [torch.bfloat16, torch.float16])
def test_offsets_keep_their_width_under_bf16_autocast(narrow: torch.dtype) -> None:
    attention = DeformableAttention(dim=8, levels=1, heads=2, points=2)
    seen: list[Tensor] = []

    def core(value: Tensor, shapes: Shapes, merged: Tensor, reference: Tensor) -> Tensor:
        seen.append(merged)
        return deformable_attention(value.float(), shapes, merged.float(), reference)

    attention.core = core
    inputs = (torch.randn(1, 5, 8), torch.rand(1, 5, 1, 4), torch.randn(1, 12, 8), ((3, 4),), None)
    attention(*inputs)
    with torch.autocast("cpu", narrow):
        assert attention(*inputs).dtype == narrow
    wide, found = seen
    assert found.dtype == (torch.float32 if narrow == torch.bfloat16 else narrow)
    assert torch.equal(found, wide) == (narrow == torch.bfloat16)


def test_at_first_heads_look_around_in_a_ring() -> None:
    attention = DeformableAttention(dim=16, levels=2, heads=8, points=3)
    ring = attention.sampling_offsets.bias.detach().reshape(8, 2, 3, 2)
    assert torch.allclose(ring.abs().amax(-1), torch.tensor([1.0, 2.0, 3.0]).expand(8, 2, 3))
    torch.testing.assert_close(ring[2, 0, 0], torch.tensor([0.0, 1.0]), rtol=0, atol=1e-6)
    assert not attention.sampling_offsets.weight.any()
    assert not attention.attention_weights.weight.any()
