"""Reference implementation of multi-scale deformable attention in numpy (Zhu et al. 2021, eq. 3).

Every kernel is compared with it. Letters: N images, S tokens (all L levels concatenated), Q queries, M heads of D
channels, P points per head and level. Written for clarity; computes in the type of its inputs.
"""

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

__all__ = ["Array", "Shapes", "deformable_attention", "deformable_attention_backward", "ms_deform_attn"]

Array: TypeAlias = NDArray[Any]
Shapes: TypeAlias = tuple[tuple[int, int], ...]
Floats: TypeAlias = NDArray[np.floating[Any]]


def ms_deform_attn(
    value: Floats,  # [N, S, M, D]
    shapes: Shapes,  # (h, w) per level
    locations: Floats,  # [N, Q, M, L, P, 2] x, y; 0 and 1 are the outer edges of the border cells
    weights: Floats,  # [N, Q, M, L, P]
) -> Floats:  # [N, Q, M * D]
    """Return the weighted sum of bilinear samples; samples outside the maps are zero."""
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
                # Distant locations do not fit an integer; their samples are masked below.
                column, row = (np.where(inside, i, 0).astype(np.intp) for i in (column, row))
                sample = np.where(inside[..., None], tokens[batch, row, column, head], 0)  # [N, Q, M, P, D]
                scale = np.where(inside, share, 0) * weights[:, :, :, level]
                out += (sample * scale[..., None].astype(value.dtype)).sum(axis=3)
    return out.reshape(N, locations.shape[1], M * D)


def deformable_attention(
    value: Floats,  # [N, S, M, D]
    shapes: Shapes,
    offsets: Floats,  # [N, Q, M, L, P, 2] raw
    logits: Floats,  # [N, Q, M, L * P] raw
    reference: Floats,  # [N or 1, Q, L, 2 or 4] points, or boxes cxcywh, as fractions of the padded map
) -> Floats:  # [N, Q, M * D]
    """Compute deformable attention from raw projections: softmax over the L * P samples, locations, weighted sum.

    The unit of an offset is one cell for reference points, and 1 / (2 P) of the side for reference boxes.
    """
    weights = _softmax(logits).reshape(offsets.shape[:-1])
    centre = reference[:, :, None, :, None, :2]
    if reference.shape[-1] == 2:
        sides = np.array([[w, h] for h, w in shapes], offsets.dtype)
        locations = centre + offsets / sides[:, None]
    else:
        locations = centre + offsets / offsets.shape[-2] * reference[:, :, None, :, None, 2:] * 0.5
    return ms_deform_attn(value, shapes, locations, weights)


def deformable_attention_backward(
    grad: Floats,  # [N, Q, M * D] of the output
    value: Floats,  # [N, S, M, D]
    shapes: Shapes,
    offsets: Floats,  # [N, Q, M, L, P, 2] raw
    logits: Floats,  # [N, Q, M, L * P] raw
    reference: Floats,  # [N or 1, Q, L, 2 or 4]
) -> tuple[Floats, Floats, Floats, Floats]:
    """Return the gradients of value, offsets, logits and reference; at a kink, those to the right and downwards."""
    N, _, M, D = value.shape
    Q, L, P = offsets.shape[1], *offsets.shape[3:5]
    grad = grad.reshape(N, Q, M, 1, D)
    weights = _softmax(logits).reshape(N, Q, M, L, P)
    sides = np.array([[w, h] for h, w in shapes], value.dtype)[:, None]  # [L, 1, 2]
    box = reference.shape[-1] == 4
    reach = reference[:, :, None, :, None, 2:] * sides * (0.5 / P) if box else np.ones_like(sides)
    cells = reference[:, :, None, :, None, :2] * sides - 0.5 + offsets * reach  # [N, Q, M, L, P, 2]
    of_value, of_weights, of_cells = (np.zeros_like(like) for like in (value, weights, cells))
    batch, head = np.ogrid[:N, :M]
    batch, head = batch[:, None, :, None], head[:, None, :, None]
    start = 0
    for level, (h, w) in enumerate(shapes):
        x, y = cells[:, :, :, level, :, 0], cells[:, :, :, level, :, 1]
        left, top = np.floor(x), np.floor(y)
        for dy, dx in np.ndindex(2, 2):
            column, row = left + dx, top + dy
            inside = (column >= 0) & (column < w) & (row >= 0) & (row < h)
            token = start + np.where(inside, row * w + column, 0).astype(np.intp)
            across, down = (np.where(inside, 1 - np.abs(at), 0) for at in (x - column, y - row))
            product = (value[batch, token, head] * grad).sum(-1)  # [N, Q, M, P]
            share = across * down * weights[:, :, :, level]
            np.add.at(of_value, (batch, token, head), share[..., None] * grad)
            of_weights[:, :, :, level] += across * down * product
            product = np.where(inside, product, 0) * weights[:, :, :, level]
            of_cells[:, :, :, level, :, 0] += (2 * dx - 1) * down * product
            of_cells[:, :, :, level, :, 1] += (2 * dy - 1) * across * product
        start += h * w
    mean = (weights * of_weights).sum((3, 4), keepdims=True)
    of_logits = (weights * (of_weights - mean)).reshape(logits.shape)
    of_centre = (of_cells * sides).sum((2, 4))  # [N, Q, L, 2]
    of_side = (of_cells * offsets * sides * (0.5 / P)).sum((2, 4))
    of_reference = np.concatenate([of_centre, of_side], -1) if box else of_centre
    if reference.shape[0] < N:
        of_reference = of_reference.sum(0, keepdims=True)
    return of_value, of_cells * reach, of_logits, of_reference


def _softmax(logits: Floats) -> Floats:
    shifted: Floats = np.exp(logits - logits.max(axis=-1, keepdims=True))
    probabilities: Floats = shifted / shifted.sum(axis=-1, keepdims=True)
    return probabilities
