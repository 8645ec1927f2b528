"""Areas and validity of many compressed masks at once, and their expansion.

The format is described in `idol_runtime.tracking.rle`. Batches of masks are parsed by array operations, because a data
set has hundreds of thousands.

Letters: B bytes, R runs and n masks of a batch.
"""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["expand_columns", "expand_rle", "measure_rles"]

_BATCH_BYTES = 1 << 16  # fits into the cache and bounds memory
_MOST_DIGITS = 6  # digits of one run: 2^30 pixels


def measure_rles(counts: Sequence[bytes]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the area and size of masks.

    Args:
        counts: n compressed masks.

    Returns:
        [n] foreground pixels and [n] total pixels; both -1 for a text that is no mask.
    """
    areas, sizes = np.empty(len(counts), np.int64), np.empty(len(counts), np.int64)
    for part in _batches(counts):
        areas[part], sizes[part] = _measure(counts[part])
    return areas, sizes


def expand_rle(counts: bytes, size: tuple[int, int]) -> NDArray[np.bool_]:
    """Expand a compressed mask.

    Args:
        counts: mask that `measure_rles` accepts.
        size: (H, W) in pixels.

    Returns:
        [H, W] bool, contiguous.
    """
    return np.ascontiguousarray(expand_columns(counts, size).T)


def expand_columns(counts: bytes, size: tuple[int, int]) -> NDArray[np.bool_]:
    """Expand a compressed mask to [W, H], the order of its runs; several times as fast as `expand_rle`."""
    # Not pycocotools.decode, which warns under numpy 2.
    digits = np.frombuffer(counts, np.uint8) - np.uint8(48)
    values, _, _ = _numbers(digits, digits & 32 == 0, np.array([len(digits)]))
    for chain in (slice(1, None, 2), slice(2, None, 2)):
        values[chain] = np.cumsum(values[chain])
    ends = np.cumsum(values)
    pixels = np.zeros(size[1] * size[0], np.bool_)
    for start, stop in zip(ends[::2].tolist(), ends[1::2].tolist(), strict=False):
        pixels[start:stop] = True
    return pixels.reshape(size[1], size[0])


def _batches(counts: Sequence[bytes]) -> Iterator[slice]:
    start = length = 0
    for i, text in enumerate(counts):
        length += len(text)
        if length >= _BATCH_BYTES:
            yield slice(start, i + 1)
            start, length = i + 1, 0
    if start < len(counts):
        yield slice(start, len(counts))


def _measure(counts: Sequence[bytes]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    lengths = np.array([len(text) for text in counts], np.intp)
    if not lengths.all():
        return _measure_valid(counts, lengths == 0)
    ends = np.cumsum(lengths)
    digits = np.frombuffer(b"".join(counts), np.uint8) - np.uint8(
        48
    )  # [B]; characters below "0" wrap to more than 63
    last = digits & 32 == 0  # last digit of a run
    broken = ~last[ends - 1]
    if digits.max() > 63:
        broken |= np.maximum.reduceat(digits, ends - lengths) > 63
    if broken.any():
        return _measure_valid(counts, broken)
    values, first, valid = _numbers(digits, last, ends)
    return _sums(values, first, valid)


def _measure_valid(
    counts: Sequence[bytes], broken: NDArray[np.bool_]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Measure with broken masks replaced by empty ones, so that no run continues in the next mask."""
    area, pixels = _measure([b"0" if bad else text for text, bad in zip(counts, broken, strict=True)])
    return np.where(broken, -1, area), np.where(broken, -1, pixels)


def _numbers(
    digits: NDArray[np.uint8],  # [B]
    last: NDArray[np.bool_],  # [B]
    ends: NDArray[np.intp],  # [n]
) -> tuple[NDArray[np.int32], NDArray[np.intp], NDArray[np.bool_]]:
    """Return the numbers [R], the index of each mask's first [n], and False [n] for masks with too long numbers."""
    stops = np.flatnonzero(last)
    values = digits[stops].astype(np.int32)
    values -= (values & 16) << 1  # the highest bit of the last digit is the sign
    after = np.searchsorted(stops, ends)
    first = np.concatenate([[0], after[:-1]])
    valid = np.ones(len(ends), np.bool_)
    more = np.flatnonzero(digits[stops - 1] & 32)  # numbers of more than one digit
    if not stops[0]:
        more = more[more > 0]  # index -1 would wrap to the end of the batch
    back = 1
    while len(more):
        if back == _MOST_DIGITS:
            valid[np.searchsorted(after, more, side="right")] = False
            break
        values[more] = (values[more] << 5) + (digits[stops[more] - back] & 31)
        back += 1
        more = more[(stops[more] >= back) & (digits[stops[more] - back] & 32 > 0)]
    return values, first, valid


def _sums(
    values: NDArray[np.int32],  # [R]
    first: NDArray[np.intp],  # [n]
    valid: NDArray[np.bool_],  # [n]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return areas and sizes. Sums wrap around at 2^32 as in pycocotools, which reads the same masks later."""
    count = np.diff(first, append=len(values))
    # From the fourth on, a number is the difference to the run two before it. Each mask thus consists of two chains of
    # every other number; the first number belongs to neither.
    chained = np.empty_like(values)
    for chain in (slice(0, None, 2), slice(1, None, 2)):
        np.cumsum(values[chain], out=chained[chain])
    zero = np.where(first > 0, chained[first - 1], 0)  # sum of the odd chain before this mask
    start = chained[first]  # sum of the even chain up to its first number
    odd = (np.arange(len(values), dtype=np.int32) - np.repeat(first.astype(np.int32), count)) & 1 == 1
    runs = chained - np.where(odd, np.repeat(zero, count), np.repeat(start, count))
    runs[first] = values[first]
    broken = ~valid | (np.minimum.reduceat(runs, first) < 0)
    area = np.add.reduceat(np.where(odd, runs, 0), first, dtype=np.int64)
    pixels = np.add.reduceat(runs, first, dtype=np.int64)
    return np.where(broken, -1, area), np.where(broken, -1, pixels)
