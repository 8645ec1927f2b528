"""From mask features and per-query parameters to masks, on the host, for the queries that are kept.

Computing masks for 300 queries inside the graph costs more than all of this for the ten that survive, so the
graph returns features and parameters, and the host decodes (IDOL_SPEC §3.4). Letters: n instances;
h, w feature cells at stride 8; H, W output pixels.
"""

import numpy as np
from numpy.typing import NDArray

from idol_runtime.preprocess import Placement

__all__ = ["FEATURE_STRIDE", "decode_masks", "mask_iou", "upsample_masks"]

FEATURE_STRIDE = 8
_CHANNELS = 8
# The 169 numbers per query: three 1x1 convolutions, weights first, then biases.
_WEIGHTS = ((_CHANNELS, _CHANNELS + 2), (_CHANNELS, _CHANNELS), (1, _CHANNELS))


def decode_masks(
    features: NDArray[np.float32],  # [8, h, w]
    params: NDArray[np.float32],  # [n, 169]
    reference_px: NDArray[np.float32],  # [n, 2] x, y in pixels of the network input
) -> NDArray[np.float32]:  # [n, 2h, 2w]
    """Mask logits at stride 4: the dynamic mask head, then the x2 aligned upsampling (IDOL_SPEC §3.4).

    The first layer sees (reference - pixel) and 8 features. Its reference part is constant over the image
    and joins the bias, so that one matrix product serves all instances.
    """
    height, width = features.shape[1:]
    (w0, w1, w2), (b0, b1, b2) = _split(params)
    centres_x = np.arange(width, dtype=np.float32) * FEATURE_STRIDE + FEATURE_STRIDE // 2
    centres_y = np.arange(height, dtype=np.float32) * FEATURE_STRIDE + FEATURE_STRIDE // 2
    basis = np.empty((_CHANNELS + 2, height, width), np.float32)
    basis[0] = -centres_x
    basis[1] = -centres_y[:, None]
    basis[2:] = features
    n = len(params)
    bias = b0 + np.matmul(w0[:, :, :2], reference_px[:, :, None])[:, :, 0]
    cells = height * width
    x = (w0.reshape(n * _CHANNELS, _CHANNELS + 2) @ basis.reshape(-1, cells)).reshape(n, _CHANNELS, cells)
    x += bias[:, :, None]
    np.maximum(x, 0, out=x)
    x = np.matmul(w1, x)
    x += b1[:, :, None]
    np.maximum(x, 0, out=x)
    logits = np.matmul(w2, x)[:, 0] + b2
    return _aligned_double(logits.reshape(n, height, width))


def _split(
    params: NDArray[np.float32],
) -> tuple[list[NDArray[np.float32]], list[NDArray[np.float32]]]:
    sizes = [rows * columns for rows, columns in _WEIGHTS] + [rows for rows, _ in _WEIGHTS]
    parts = np.split(params, np.cumsum(sizes)[:-1], axis=1)
    weights = [part.reshape(len(params), *shape) for part, shape in zip(parts[:3], _WEIGHTS, strict=True)]
    return weights, parts[3:]


def _aligned_double(
    x: NDArray[np.float32],  # [n, h, w]
) -> NDArray[np.float32]:  # [n, 2h, 2w]
    """Twice the size with corners aligned: odd cells are the samples, even ones the means of two neighbours."""
    n, height, width = x.shape
    rows = np.empty((n, 2 * height, width), np.float32)
    rows[:, 1::2] = x
    rows[:, 0] = x[:, 0]
    rows[:, 2::2] = (x[:, :-1] + x[:, 1:]) * np.float32(0.5)
    out = np.empty((n, 2 * height, 2 * width), np.float32)
    out[:, :, 1::2] = rows
    out[:, :, 0] = rows[:, :, 0]
    out[:, :, 2::2] = (rows[:, :, :-1] + rows[:, :, 1:]) * np.float32(0.5)
    return out


def mask_iou(
    binary: NDArray[np.bool_],  # [n, P]
) -> NDArray[np.float32]:  # [n, n]
    """IoU of every pair of flattened masks, (intersection + 1e-6) / (union + 1e-6) in float32 as published.

    Two empty masks have IoU 1; an IoU of exactly one half may fall either way of 0.5 by rounding, and falls
    as it does in the published code.
    """
    as_float = binary.astype(np.float32)
    # Counts below 2**24 are exact in float32, and one sgemm is the fastest way to them.
    intersection = as_float @ as_float.T
    area = np.diagonal(intersection)
    union = area[:, None] + area[None, :] - intersection
    smooth = np.float32(1e-6)
    iou: NDArray[np.float32] = (intersection + smooth) / (union + smooth)
    return iou


def upsample_masks(
    logits: NDArray[np.float32],  # [n, h, w] at stride 4 of the padded network input
    placement: Placement,
) -> NDArray[np.bool_]:  # [n, H, W]
    """Full-resolution masks: bilinear x4, crop the padding, nearest to the frame, above one half.

    Only the pixels that can be set are computed: a bilinear value is positive only between cells of which
    one is.
    """
    out = np.zeros((len(logits), *placement.frame), np.bool_)
    top, bottom, row_share = _taps(logits.shape[1], placement.content[0], placement.frame[0])
    left, right, column_share = _taps(logits.shape[2], placement.content[1], placement.frame[1])
    for target, logit in zip(out, logits, strict=True):
        positive = logit > 0
        rows = _reach(positive.any(axis=1), top, bottom)
        columns = _reach(positive.any(axis=0), left, right)
        if rows.start == rows.stop or columns.start == columns.stop:
            continue
        upper, lower = logit[top[rows]], logit[bottom[rows]]
        blended = upper + (lower - upper) * row_share[rows, None]
        before, after = blended[:, left[columns]], blended[:, right[columns]]
        target[rows, columns] = before + (after - before) * column_share[columns] > 0
    return out


def _taps(
    cells: int, content: int, pixels: int
) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.float32]]:
    """For each output pixel along one axis: the two cells it blends, and the share of the second."""
    if pixels == content:
        source = np.arange(pixels, dtype=np.float32)
    else:
        # Nearest as the published resize computes it: in float32, rounded down.
        scale = np.float32(content) / np.float32(pixels)
        source = np.minimum(np.floor(np.arange(pixels, dtype=np.float32) * scale), np.float32(content - 1))
    position = np.maximum((source + np.float32(0.5)) * np.float32(0.25) - np.float32(0.5), 0)
    first = np.minimum(position.astype(np.intp), cells - 1)
    return first, np.minimum(first + 1, cells - 1), (position - first).astype(np.float32)


def _reach(active: NDArray[np.bool_], first: NDArray[np.intp], second: NDArray[np.intp]) -> slice:
    """The output pixels that touch an active cell, as one slice."""
    touched = np.flatnonzero(active[first] | active[second])
    return slice(int(touched[0]), int(touched[-1]) + 1) if len(touched) else slice(0, 0)
