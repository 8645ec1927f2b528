"""Deformable attention in plain ONNX operators: gather the four cells around each sample, and mix them.

Letters as in `idol_deploy.model.deform_attn`, with T = L * P samples. Coordinates count cells from the centre of the
first cell. They are two planes, x and y, with the samples innermost, because an innermost axis of two is slow.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from idol_deploy.model.deform_attn import Shapes

__all__ = ["gather_and_multiply", "gather_and_sum"]

_FAR = 1e4  # distance to the second cell of a side of one cell, which has none: its weight is zero
_OUTSIDE = 1e30  # replaces NaN and all coordinates that are not smaller


def gather_and_multiply(value: Tensor, shapes: Shapes, merged: Tensor, reference: Tensor) -> Tensor:
    """Compute `deformable_attention` with one matrix product per query and head: an `AttentionCore` for CPUs."""
    return _gather(value, shapes, merged, reference, lambda weights, cells: weights[..., None, :] @ cells)


def gather_and_sum(value: Tensor, shapes: Shapes, merged: Tensor, reference: Tensor) -> Tensor:
    """Compute `deformable_attention` with a multiplication and a sum: an `AttentionCore` for TensorRT.

    TensorRT fuses both with the gather, and never stores the gathered cells: 4 * T times the attention's output.
    """
    return _gather(
        value, shapes, merged, reference, lambda weights, cells: (weights[..., None] * cells).sum(3)
    )


def _gather(
    value: Tensor,  # [N, S, M, D]
    shapes: Shapes,
    merged: Tensor,  # [N, Q, M * L * P * 3]
    reference: Tensor,  # [N or 1, Q, L, 2 or 4]
    mix: Callable[[Tensor, Tensor], Tensor],
) -> Tensor:
    """Compute `deformable_attention`, except that a NaN value also counts in samples that weigh it with zero.

    Along an axis of w cells, the first of a sample's two cells is c = clamp(floor(x), 0, w - 2). The cells c and c + 1
    have the weights max(0, 1 - |x - c - {0, 1}|), which are zero outside the map without a comparison.

    Args:
        value: sampled values, all levels one after the other.
        shapes: (h, w) of each level.
        merged: raw offsets, then raw logits.
        reference: reference points (x, y) or boxes cxcywh, in shares of the padded map.
        mix: weighted sum of cells: weights [N, Q, M, 4 * T] and cells [N, Q, M, 4 * T, D] to N * Q * M * D numbers.

    Returns:
        The attention's output, [N, Q, M * D].
    """
    N, M, D = value.shape[0], *value.shape[2:]
    Q, T = merged.shape[1], merged.shape[2] // (3 * M)
    sides = [[w for _, w in shapes], [h for h, _ in shapes]]
    offsets, logits = torch.split(merged, [2 * M * T, M * T], -1)
    x = _coordinates(offsets.reshape(N, Q, M, T, 2), sides, reference)
    last = _table([[max(side - 2, 0) for side in axis] for axis in sides], T, x)
    # Relu and Min instead of Clip, which TensorRT 10.13 refuses for indices.
    first = torch.minimum(F.relu(x.floor()), last.reshape(2, 1, 1, 1, 1, T))
    cells = [[cell * (1 if side > 1 else _FAR) for side in axis] for axis in sides for cell in (0, 1)]
    near = F.relu(1 - (x - first - _table(cells, T, x).reshape(2, 1, 1, 1, 2, T)).abs())
    across, down = (plane.squeeze(0) for plane in torch.split(near, 1))  # [N, Q, M, 2, T]
    down = down * logits.reshape(N, Q, M, 1, T).softmax(-1)
    weights = (down.unsqueeze(4) * across.unsqueeze(3)).reshape(N, Q, M, 4 * T)
    index = _rows(first.to(torch.int32), shapes).reshape(N, Q, M, 4 * T)
    return mix(weights, F.embedding(index, value.reshape(-1, D))).reshape(N, Q, M * D)


def _coordinates(
    offsets: Tensor,  # [N, Q, M, T, 2]
    sides: Sequence[Sequence[int]],
    reference: Tensor,  # [N or 1, Q, L, 2 or 4]
) -> Tensor:
    """Return x and y of the samples, [2, N, Q, M, 1, T]; NaN becomes a place outside the maps.

    Args:
        offsets: raw offsets.
        sides: widths, then heights of the levels.
        reference: reference points or boxes.
    """
    T, levels = offsets.shape[3], len(sides[0])
    points = T // levels
    size = _table(sides, T, offsets).reshape(2, 1, 1, 1, 1, T)
    spread = reference.permute(3, 0, 1, 2)[..., None].expand(-1, -1, -1, -1, points)
    spread = spread.reshape(reference.shape[3], reference.shape[0], offsets.shape[1], 1, 1, T)
    x = offsets.permute(4, 0, 1, 2, 3).unsqueeze(4)
    if reference.shape[-1] == 4:
        x = x * (spread[2:] * (size * (0.5 / points)))
    x = x + (spread[:2] * size - 0.5)
    return torch.where(x.abs() < _OUTSIDE, x, x.new_tensor(_OUTSIDE))


def _rows(
    first: Tensor,  # [2, N, Q, M, 1, T] int32
    shapes: Shapes,
) -> Tensor:
    """Return the rows [N, Q, M, 4, T] of the samples' cells in the values [N * S * M, D].

    They are computed in int32, because fp32 is exact up to 2^24 only.
    """
    N, M, T = first.shape[1], first.shape[3], first.shape[5]
    steps, start = [list[int]() for _ in range(4)], 0
    for h, w in shapes:
        for cell, row in enumerate(steps):
            row.append(start + (cell // 2) * (w if h > 1 else 0) + cell % 2 * (w > 1))
        start += h * w
    heads = torch.arange(M, dtype=torch.int32, device=first.device).reshape(M, 1, 1)
    images = torch.arange(N, dtype=torch.int32, device=first.device).reshape(-1, 1, 1, 1, 1)
    base = _table(steps, T, first) * M + heads + images * (start * M)
    x, y = (plane.squeeze(0) for plane in torch.split(first, 1))
    return y * _table([[M * w for _, w in shapes]], T, first) + x * M + base


def _table(rows: Sequence[Sequence[float]], samples: int, like: Tensor) -> Tensor:
    """Return [rows, T] of the type of `like` from one number per row and level, repeated for the level's points."""
    return like.new_tensor([[number for number in row for _ in range(samples // len(row))] for row in rows])
