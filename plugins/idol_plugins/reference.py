"""Multi-scale deformable attention in numpy: the twin that every kernel is held to (Zhu et al. 2021, eq. 3).

Letters: N images, S tokens of all L levels one after the other, Q queries, M heads of D channels, P points per
head and level. Written for clarity; computes in the type of its inputs.
"""

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

__all__ = ["Shapes", "deformable_attention", "ms_deform_attn"]

Shapes: TypeAlias = tuple[tuple[int, int], ...]
Floats: TypeAlias = NDArray[np.floating[Any]]


def ms_deform_attn(
    value: Floats,  # [N, S, M, D]
    shapes: Shapes,  # (h, w) per level
    locations: Floats,  # [N, Q, M, L, P, 2] x, y; 0 and 1 are the outer edges of the border cells
    weights: Floats,  # [N, Q, M, L, P]
) -> Floats:  # [N, Q, M * D]
    """Weighted sum of bilinear samples, zero outside the maps, whatever is there."""
    N, _, M, D = value.shape
    out = np.zeros((N, locations.shape[1], M, D), value.dtype)
    batch, head = np.ogrid[:N, :M]
    batch, head = batch[:, None, :, None], head[:, None, :, None]
    start = 0
    for level, (h, w) in enumerate(shapes):
        tokens = value[:, start : start + h * w].reshape(N, h, w, M, D)
        start += h * w
        x = locations[:, :, :, level, :, 0] * w - 0.5  # [N, Q, M, P] in cells
        y = locations[:, :, :, level, :, 1] * h - 0.5
        left, top = np.floor(x), np.floor(y)
        for dy in (0, 1):
            for dx in (0, 1):
                share = (1 - np.abs(x - left - dx)) * (1 - np.abs(y - top - dy))
                column, row = left + dx, top + dy
                inside = (column >= 0) & (column < w) & (row >= 0) & (row < h)
                # Far-away locations would not fit an integer; what they read counts nothing.
                column, row = (np.where(inside, i, 0).astype(np.intp) for i in (column, row))
                sample = np.where(inside[..., None], tokens[batch, row, column, head], 0)  # [N, Q, M, P, D]
                scale = np.where(inside, share, 0) * weights[:, :, :, level]
                out += (sample * scale[..., None].astype(value.dtype)).sum(axis=3)
    return out.reshape(N, -1, M * D)


def deformable_attention(
    value: Floats,  # [N, S, M, D]
    shapes: Shapes,
    offsets: Floats,  # [N, Q, M, L, P, 2] raw
    logits: Floats,  # [N, Q, M, L * P] raw
    reference: Floats,  # [N or 1, Q, L, 2 or 4] points, or boxes cxcywh, in shares of the padded map
) -> Floats:  # [N, Q, M * D]
    """Deformable attention from raw projections: softmax over the L * P samples, locations, then the sum.

    Offsets count cells around a reference point, and 1 / (2 P) of a reference box's sides.
    """
    shifted = np.exp(logits - logits.max(axis=-1, keepdims=True))
    weights = (shifted / shifted.sum(axis=-1, keepdims=True)).reshape(offsets.shape[:-1])
    centre = reference[:, :, None, :, None, :2]
    if reference.shape[-1] == 2:
        sides = np.array([[w, h] for h, w in shapes], offsets.dtype)
        locations = centre + offsets / sides[:, None]
    else:
        locations = centre + offsets / offsets.shape[-2] * reference[:, :, None, :, None, 2:] * 0.5
    return ms_deform_attn(value, shapes, locations, weights)
