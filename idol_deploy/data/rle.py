"""Many compressed masks at once: their areas, and whether they are masks at all.

The format is that of `idol_runtime.rle`. Here all masks of a batch are read by array operations, since a data set has
hundreds of thousands.

B: bytes of a batch; R: its runs; n: its masks.
"""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["expand_rle", "measure_rles"]

_BATCH_BYTES = 1 << 16  # stays in the cache, and bounds the memory
_MOST_DIGITS = 6  # of one run: 2^30 pixels
_IMPOSSIBLE = -(1 << 40)  # below 0 whatever it is added to


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
    # pycocotools' own decoder warns under numpy 2.
    digits = np.frombuffer(counts, np.uint8) - np.uint8(48)
    values, _, _ = _runs(digits, (digits & 32) == 0, np.array([len(digits)]))
    for chain in (slice(1, None, 2), slice(2, None, 2)):
        values[chain] = np.cumsum(values[chain])
    columns = np.repeat(np.arange(len(values)) & 1 == 1, values)
    return np.ascontiguousarray(columns.reshape(size[1], size[0]).T)


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
    broken = lengths == 0
    digits = np.frombuffer(
        b"".join(b"0" if empty else t for t, empty in zip(counts, broken, strict=True)), np.uint8
    )
    lengths[broken] = 1
    ends = np.cumsum(lengths)
    digits = digits - np.uint8(48)  # [B]; below "0" wraps beyond 63
    last = (digits & 32) == 0  # of its run
    broken |= np.maximum.reduceat(digits, ends - lengths) > 63
    broken |= ~last[ends - 1]
    if broken.any():
        # Each becomes an empty mask, so that a run never goes on in the next mask.
        whole = _measure([b"0" if bad else text for text, bad in zip(counts, broken, strict=True)])
        return np.where(broken, -1, whole[0]), np.where(broken, -1, whole[1])
    values, owner, first = _runs(digits, last, ends)
    return _sums(values, owner, first)


def _runs(
    digits: NDArray[np.uint8],  # [B]
    last: NDArray[np.bool_],  # [B]
    ends: NDArray[np.intp],  # [n]
) -> tuple[NDArray[np.int64], NDArray[np.intp], NDArray[np.intp]]:
    """[R] the numbers as written, [R] which mask each is of, and [n] each mask's first."""
    stops = np.flatnonzero(last)
    sizes = np.diff(stops, prepend=-1)
    values = (digits[stops] & 31).astype(np.int64)
    values -= (values & 16) << 1  # the sign is the highest bit of the last digit
    for back in range(1, _MOST_DIGITS):
        deeper = np.flatnonzero(sizes > back)
        values[deeper] = (values[deeper] << 5) + (digits[stops[deeper] - back] & 31)
    values[sizes > _MOST_DIGITS] = _IMPOSSIBLE
    after = np.searchsorted(stops, ends)
    first = np.concatenate([[0], after[:-1]])
    return values, np.repeat(np.arange(len(ends)), after - first), first


def _sums(
    values: NDArray[np.int64],  # [R]
    owner: NDArray[np.intp],  # [R]
    first: NDArray[np.intp],  # [n]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    n = len(first)
    broken = values[first] < 0
    pixels = values[first].copy()
    values[first] = (
        0  # it is no part of the chains: a number is the difference to the run two before, from the third on
    )
    odd = (np.arange(len(owner)) - first[owner]) & 1 == 1
    area = np.zeros(n, np.int64)
    for chain in (np.flatnonzero(~odd), np.flatnonzero(odd)):
        masks = owner[chain]
        sizes = np.cumsum(values[chain])
        begins = np.searchsorted(masks, np.arange(n))
        sizes -= np.concatenate([[0], sizes])[begins][masks]
        broken[masks[sizes < 0]] = True
        total = np.bincount(masks, weights=sizes, minlength=n).astype(np.int64)
        pixels += total
        area = total
    return np.where(broken, -1, area), np.where(broken, -1, pixels)
