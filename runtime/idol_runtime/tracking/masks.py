"""Mask decoding: from mask features and per-query parameters to masks, on the host.

The host decodes the ten or so selected queries; decoding all 300 inside the graph would cost more than all of this. So
the graph returns features and parameters (docs/idol.md §3.4). Letters: n instances; h, w feature cells at stride 8;
H, W output pixels.
"""

import functools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from idol_runtime.preprocess import Placement
from idol_runtime.tracking.boxes import Bools, Floats
from idol_runtime.tracking.crops import MaskCrop

__all__ = ["FEATURE_STRIDE", "decode_masks", "mask_iou", "upsample_masks"]

FEATURE_STRIDE = 8
_CHANNELS = 8
_GROUP = 4  # instances per step: a group's activations stay in the CPU cache
# The 169 parameters per query: the weights of three 1x1 convolutions, then their biases.
_WEIGHTS = ((_CHANNELS, _CHANNELS + 2), (_CHANNELS, _CHANNELS), (1, _CHANNELS))


def decode_masks(
    features: Floats,  # [8, h, w]
    params: Floats,  # [n, 169]
    reference_px: Floats,  # [n, 2] x, y in pixels of the network input
) -> Floats:  # [n, 2h, 2w]
    """Return mask logits at stride 4: the dynamic mask head and the aligned x2 upsampling (docs/idol.md §3.4).

    The input of the first layer is (reference - pixel) and 8 features. The reference part is constant over the image
    and is added to the bias, so that one matrix product computes the layer for all instances.
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
    # The other layers work in place on a few instances at a time, which avoids memory allocation.
    hidden = np.empty((min(n, _GROUP), *x.shape[1:]), np.float32)
    for start in range(0, n, _GROUP):
        part = slice(start, min(start + _GROUP, n))
        first, second = x[part], hidden[: part.stop - start]
        first += biases[0][part, :, None]
        np.maximum(first, 0, out=first)
        np.matmul(weights[1][part], first, out=second)
        second += biases[1][part, :, None]
        np.maximum(second, 0, out=second)
        np.matmul(weights[2][part], second, out=logits[part, None])
    logits += biases[2]
    return _aligned_double(logits.reshape(n, height, width))


def _split(params: Floats) -> tuple[list[Floats], list[Floats]]:  # [n, 169]
    """Split parameters into the weights and the biases of three layers."""
    sizes = [rows * columns for rows, columns in _WEIGHTS] + [rows for rows, _ in _WEIGHTS]
    parts = np.split(params, np.cumsum(sizes)[:-1], axis=1)
    weights = [part.reshape(len(params), *shape) for part, shape in zip(parts[:3], _WEIGHTS, strict=True)]
    return weights, parts[3:]


def _aligned_double(x: Floats) -> Floats:  # [n, h, w] -> [n, 2h, 2w]
    """Double the size with aligned corners: odd cells are the samples, even ones the means of two neighbours."""
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


def mask_iou(binary: Bools) -> Floats:  # [n, P] -> [n, n]
    """Return the IoU of every pair of flattened masks: (intersection + 1e-6) / (union + 1e-6) in float32, as published.

    Two empty masks have IoU 1. An IoU of exactly one half is rounded above or below 0.5 as in the published code.
    """
    as_float = binary.astype(np.float32)
    # Counts below 2**24 are exact in float32, and one sgemm computes them fastest.
    intersection = as_float @ as_float.T
    area = np.diagonal(intersection)
    union = area[:, None] + area[None, :] - intersection
    smooth = np.float32(1e-6)
    return np.asarray((intersection + smooth) / (union + smooth))


def upsample_masks(logits: Floats, placement: Placement) -> tuple[MaskCrop, ...]:  # [n, h, w]
    """Return masks at the resolution of the frame: bilinear x4, padding cropped, nearest resize, threshold one half.

    Only pixels that can be set are computed: a bilinear value is positive only if one of its cells is. A pixel of the
    network input that becomes several pixels of the frame is computed once and repeated as a bit.

    Args:
        logits: mask logits at stride 4 of the padded network input.
        placement: position of the frame in the network input.
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
    logit: Floats,  # [h, w]
    rows: "_Taps",
    columns: "_Taps",
    row_range: slice,
    column_range: slice,
) -> MaskCrop:
    if row_range.start == row_range.stop or column_range.start == column_range.stop:
        return MaskCrop(0, 0, np.zeros((0, 0), np.bool_))
    before, after = columns.first[column_range], columns.second[column_range]
    origin = before[0]
    cells = logit[:, origin : after[-1] + 1]
    upper, lower = cells[rows.first[row_range]], cells[rows.second[row_range]]
    blended = upper + (lower - upper) * rows.share[row_range, None]
    left = blended.take(before - origin, axis=1, mode="clip")
    right = blended.take(after - origin, axis=1, mode="clip")
    right -= left
    right *= columns.share[column_range]
    right += left
    top, row_of = rows.spread(row_range)
    start, column_of = columns.spread(column_range)
    pixels = (right > 0).take(column_of, axis=1, mode="clip").take(row_of, axis=0, mode="clip")
    return MaskCrop(top, start, pixels)


@dataclass(frozen=True)
class _Taps:
    """Bilinear weights along one axis, for the p pixels of the network input that the frame shows.

    Attributes:
        first: [p] first of the two cells that each pixel blends.
        second: [p] second of the two cells.
        share: [p] weight of the second cell.
        shown: [pixels of the frame] index of the pixel that each pixel of the frame shows, in rising order.
    """

    first: NDArray[np.intp]
    second: NDArray[np.intp]
    share: Floats
    shown: NDArray[np.intp]

    def reach(self, active: Bools) -> slice:
        """Return the range of pixels that blend an active cell."""
        touched = np.flatnonzero(active[self.first] | active[self.second])
        return slice(int(touched[0]), int(touched[-1]) + 1) if len(touched) else slice(0, 0)

    def spread(self, pixels: slice) -> tuple[int, NDArray[np.intp]]:
        """Return the first frame pixel that shows the range, and the index in the range for it and the next ones."""
        start, stop = np.searchsorted(self.shown, (pixels.start, pixels.stop))
        return int(start), self.shown[start:stop] - pixels.start


@functools.lru_cache(maxsize=16)  # a stream needs two, one per axis
def _taps(cells: int, content: int, pixels: int) -> _Taps:
    if pixels == content:
        source = np.arange(pixels, dtype=np.float32)
    else:
        # Nearest resize as in the published code: computed in float32 and rounded down.
        scale = np.float32(content) / np.float32(pixels)
        source = np.minimum(np.floor(np.arange(pixels, dtype=np.float32) * scale), np.float32(content - 1))
    source, shown = np.unique(source, return_inverse=True)
    position = np.maximum((source + np.float32(0.5)) * np.float32(0.25) - np.float32(0.5), 0)
    first = np.minimum(position.astype(np.intp), cells - 1)
    second = np.minimum(first + 1, cells - 1)
    return _Taps(first, second, (position - first).astype(np.float32), shown.reshape(-1))
