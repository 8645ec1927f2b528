"""Many compressed masks at once: their areas, and whether they are masks at all.

The format is that of `idol_runtime.tracking.rle`. A batch of masks is read by array operations: a data set has
hundreds of thousands.

B: bytes of a batch; R: its runs; n: its masks.
"""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["expand_columns", "expand_rle", "measure_rles"]

_BATCH_BYTES = 1 << 16  # stays in the cache, and bounds the memory
_MOST_DIGITS = 6  # of one run: 2^30 pixels


def measure_rles(counts: Sequence[bytes]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Foreground and size of masks.

    Args:
        counts: n compressed masks.

    Returns:
        [n] pixels of the foreground, and [n] pixels in all; both -1 where the text is no mask.
    """
    areas, sizes = np.empty(len(counts), np.int64), np.empty(len(counts), np.int64)
    for part in _batches(counts):
        areas[part], sizes[part] = _measure(counts[part])
    return areas, sizes


def expand_rle(counts: bytes, size: tuple[int, int]) -> NDArray[np.bool_]:
    """One mask as pixels.

    Args:
        counts: a mask that `measure_rles` has found to be one.
        size: (H, W) in pixels.

    Returns:
        [H, W] bool, contiguous.
    """
    return np.ascontiguousarray(expand_columns(counts, size).T)


def expand_columns(counts: bytes, size: tuple[int, int]) -> NDArray[np.bool_]:
    """The same as `expand_rle`, transposed: [W, H], as the runs lie and several times as fast."""
    # pycocotools' own decoder warns under numpy 2.
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
    start = held = 0
    for i, text in enumerate(counts):
        held += len(text)
        if held >= _BATCH_BYTES:
            yield slice(start, i + 1)
            start, held = i + 1, 0
    if start < len(counts):
        yield slice(start, len(counts))


def _measure(counts: Sequence[bytes]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    lengths = np.array([len(text) for text in counts], np.intp)
    if not lengths.all():
        return _measure_others(counts, lengths == 0)
    ends = np.cumsum(lengths)
    digits = np.frombuffer(b"".join(counts), np.uint8) - np.uint8(48)  # [B]; below "0" wraps beyond 63
    last = digits & 32 == 0  # of its run
    broken = ~last[ends - 1]
    if digits.max() > 63:
        broken |= np.maximum.reduceat(digits, ends - lengths) > 63
    if broken.any():
        return _measure_others(counts, broken)
    values, first, whole = _numbers(digits, last, ends)
    return _sums(values, first, whole)


def _measure_others(
    counts: Sequence[bytes], broken: NDArray[np.bool_]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Of those that are masks: the others become empty ones, so that no run goes on in the next mask."""
    area, pixels = _measure([b"0" if bad else text for text, bad in zip(counts, broken, strict=True)])
    return np.where(broken, -1, area), np.where(broken, -1, pixels)


def _numbers(
    digits: NDArray[np.uint8],  # [B]
    last: NDArray[np.bool_],  # [B]
    ends: NDArray[np.intp],  # [n]
) -> tuple[NDArray[np.int32], NDArray[np.intp], NDArray[np.bool_]]:
    """[R] the numbers as written, [n] which is each mask's first, and [n] whether none is too long."""
    stops = np.flatnonzero(last)
    values = digits[stops].astype(np.int32)
    values -= (values & 16) << 1  # the sign is the highest bit of the last digit
    after = np.searchsorted(stops, ends)
    first = np.concatenate([[0], after[:-1]])
    whole = np.ones(len(ends), np.bool_)
    more = np.flatnonzero(digits[stops - 1] & 32)  # whose last digit has another before it
    if not stops[0]:
        more = more[more > 0]  # what lies before the very first digit is the batch's end
    back = 1
    while len(more):
        if back == _MOST_DIGITS:
            whole[np.searchsorted(after, more, side="right")] = False
            break
        values[more] = (values[more] << 5) + (digits[stops[more] - back] & 31)
        back += 1
        more = more[(stops[more] >= back) & (digits[stops[more] - back] & 32 > 0)]
    return values, first, whole


def _sums(
    values: NDArray[np.int32],  # [R]
    first: NDArray[np.intp],  # [n]
    whole: NDArray[np.bool_],  # [n]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Foreground and size. Sums wrap around at 2^32, as those of pycocotools do, which reads the same masks later."""
    count = np.diff(first, append=len(values))
    # A number is the difference to the run two before it, from the fourth on; so each mask is two chains, every other
    # number, and the first number is no part of either.
    chained = np.empty_like(values)
    for chain in (slice(0, None, 2), slice(1, None, 2)):
        np.cumsum(values[chain], out=chained[chain])
    zero = np.where(first > 0, chained[first - 1], 0)  # what the odd chain has added up before this mask, and
    start = chained[first]  # what the even one has, its first number included
    odd = (np.arange(len(values), dtype=np.int32) - np.repeat(first.astype(np.int32), count)) & 1 == 1
    runs = chained - np.where(odd, np.repeat(zero, count), np.repeat(start, count))
    runs[first] = values[first]
    broken = ~whole | (np.minimum.reduceat(runs, first) < 0)
    area = np.add.reduceat(np.where(odd, runs, 0), first, dtype=np.int64)
    pixels = np.add.reduceat(runs, first, dtype=np.int64)
    return np.where(broken, -1, area), np.where(broken, -1, pixels)
