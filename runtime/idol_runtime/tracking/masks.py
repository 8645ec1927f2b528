"""From mask features and per-query parameters to masks, on the host, for the queries that are kept.

Computing masks for 300 queries inside the graph costs more than all of this for the ten that survive, so the
graph returns features and parameters, and the host decodes (docs/idol.md §3.4). Letters: n instances;
h, w feature cells at stride 8; H, W output pixels.
"""

import functools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from idol_runtime.preprocess import Placement
from idol_runtime.tracking.crops import MaskCrop

__all__ = ["FEATURE_STRIDE", "decode_masks", "mask_iou", "upsample_masks"]

FEATURE_STRIDE = 8
_CHANNELS = 8
_AT_ONCE = 4
# The 169 numbers per query: three 1x1 convolutions, weights first, then biases.
_WEIGHTS = ((_CHANNELS, _CHANNELS + 2), (_CHANNELS, _CHANNELS), (1, _CHANNELS))


def decode_masks(
    features: NDArray[np.float32],  # [8, h, w]
    params: NDArray[np.float32],  # [n, 169]
    reference_px: NDArray[np.float32],  # [n, 2] x, y in pixels of the network input
) -> NDArray[np.float32]:  # [n, 2h, 2w]
    """Mask logits at stride 4: the dynamic mask head, then the x2 aligned upsampling (docs/idol.md §3.4).

    The first layer sees (reference - pixel) and 8 features. Its reference part is constant over the image
    and joins the bias, so that one matrix product serves all instances.
    """
    height, width = features.shape[1:]
    weights, biases = _split(params)
    basis = np.empty((_CHANNELS + 2, height, width), np.float32)
    basis[0] = -(np.arange(width, dtype=np.float32) * FEATURE_STRIDE + FEATURE_STRIDE // 2)
    basis[1] = -(np.arange(height, dtype=np.float32) * FEATURE_STRIDE + FEATURE_STRIDE // 2)[:, None]
    basis[2:] = features
    n = len(params)
    biases[0] = biases[0] + np.matmul(weights[0][:, :, :2], reference_px[:, :, None])[:, :, 0]
    logits = np.empty((n, height * width), np.float32)
    first_weights = weights[0].reshape(n * _CHANNELS, len(basis))
    x = (first_weights @ basis.reshape(len(basis), -1)).reshape(n, _CHANNELS, height * width)
    # The rest a few at a time and in place, which stays in the cache and fetches no memory for all of them.
    hidden = np.empty((min(n, _AT_ONCE), *x.shape[1:]), np.float32)
    for start in range(0, n, _AT_ONCE):
        part = slice(start, min(start + _AT_ONCE, n))
        first, second = x[part], hidden[: part.stop - start]
        first += biases[0][part, :, None]
        np.maximum(first, 0, out=first)
        np.matmul(weights[1][part], first, out=second)
        second += biases[1][part, :, None]
        np.maximum(second, 0, out=second)
        np.matmul(weights[2][part], second, out=logits[part, None])
    logits += biases[2]
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
) -> tuple[MaskCrop, ...]:
    """Full-resolution masks: bilinear x4, crop the padding, nearest to the frame, above one half.

    Only the pixels that can be set are computed: a bilinear value is positive only between cells of which
    one is. And each once: a pixel of the network that becomes several of the frame is repeated as a bit.
    """
    rows = _taps(logits.shape[1], placement.content[0], placement.frame[0])
    columns = _taps(logits.shape[2], placement.content[1], placement.frame[1])
    positive = logits > 0
    by_row, by_column = np.asarray(positive.any(axis=2)), np.asarray(positive.any(axis=1))
    return tuple(
        _upsample(logit, rows, columns, rows.reach(by_row[i]), columns.reach(by_column[i]))
        for i, logit in enumerate(logits)
    )


def _upsample(
    logit: NDArray[np.float32],  # [h, w]
    rows: "_Taps",
    columns: "_Taps",
    reached_rows: slice,
    reached_columns: slice,
) -> MaskCrop:
    if reached_rows.start == reached_rows.stop or reached_columns.start == reached_columns.stop:
        return MaskCrop(0, 0, np.zeros((0, 0), np.bool_))
    before, after = columns.first[reached_columns], columns.second[reached_columns]
    origin = before[0]
    cells = logit[:, origin : after[-1] + 1]
    upper, lower = cells[rows.first[reached_rows]], cells[rows.second[reached_rows]]
    blended = upper + (lower - upper) * rows.share[reached_rows, None]
    left = blended.take(before - origin, axis=1, mode="clip")
    right = blended.take(after - origin, axis=1, mode="clip")
    right -= left
    right *= columns.share[reached_columns]
    right += left
    top, row_of = rows.spread(reached_rows)
    start, column_of = columns.spread(reached_columns)
    pixels = (right > 0).take(column_of, axis=1, mode="clip").take(row_of, axis=0, mode="clip")
    return MaskCrop(top, start, pixels)


@dataclass(frozen=True)
class _Taps:
    """Along one axis, the pixels of the network that the frame shows, p of them.

    Attributes:
        first: [p] the first of the two cells that each blends.
        second: [p] the other.
        share: [p] of the second.
        shown: [pixels of the frame] which one each of them shows; rising.
    """

    first: NDArray[np.intp]
    second: NDArray[np.intp]
    share: NDArray[np.float32]
    shown: NDArray[np.intp]

    def reach(self, active: NDArray[np.bool_]) -> slice:
        """Those that touch an active cell, as one slice."""
        touched = np.flatnonzero(active[self.first] | active[self.second])
        return slice(int(touched[0]), int(touched[-1]) + 1) if len(touched) else slice(0, 0)

    def spread(self, reached: slice) -> tuple[int, NDArray[np.intp]]:
        """The first pixel of the frame that shows one of a slice, and which of the slice it and the next show."""
        start, stop = np.searchsorted(self.shown, (reached.start, reached.stop))
        return int(start), self.shown[start:stop] - reached.start


@functools.lru_cache(maxsize=16)  # a stream has two, one for each axis
def _taps(cells: int, content: int, pixels: int) -> _Taps:
    if pixels == content:
        source = np.arange(pixels, dtype=np.float32)
    else:
        # Nearest as the published resize computes it: in float32, rounded down.
        scale = np.float32(content) / np.float32(pixels)
        source = np.minimum(np.floor(np.arange(pixels, dtype=np.float32) * scale), np.float32(content - 1))
    source, shown = np.unique(source, return_inverse=True)
    position = np.maximum((source + np.float32(0.5)) * np.float32(0.25) - np.float32(0.5), 0)
    first = np.minimum(position.astype(np.intp), cells - 1)
    second = np.minimum(first + 1, cells - 1)
    return _Taps(first, second, (position - first).astype(np.float32), shown.reshape(-1))
