"""COCO's compressed run lengths of masks: {"size": [H, W], "counts": text}.

Runs alternate between background and foreground down the columns, starting with background. From the fourth run on,
the difference to the run two before is written. Numbers are written in base 32, starting at the character "0".

n: masks; H, W: height and width in pixels.
"""

from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

import numpy as np

from idol_runtime.errors import FrameError
from idol_runtime.tracking.boxes import Bools, Ints
from idol_runtime.tracking.crops import MaskCrop, crop_masks

__all__ = ["MAX_PIXELS", "RLE", "decode_rle", "encode_crops", "encode_rle", "encode_rles"]

# Limit of the size of a mask that is read; Pillow refuses images that are larger.
MAX_PIXELS = 2**28
# Magnitudes from which a number needs one more digit of five bits; the last one covers 2^35 pixels.
_DIGIT_LIMITS = 16 * 32 ** np.arange(7)


class RLE(TypedDict):
    """A compressed mask in the format of pycocotools and of the YTVIS and OVIS servers.

    Attributes:
        size: [height, width] in pixels.
        counts: compressed runs as text.
    """

    size: list[int]
    counts: str


def encode_rle(mask: Bools) -> RLE:
    """Compress one mask, [H, W] bool.

    Raises:
        FrameError: the mask is not a two-dimensional bool array, or has no pixels.
    """
    return encode_rles(mask[None])[0]


def encode_rles(masks: Bools) -> list[RLE]:
    """Compress the masks of one frame, [n, H, W] bool; n may be 0.

    Raises:
        FrameError: the masks are not a three-dimensional bool array, or have no pixels.
    """
    if masks.ndim != 3 or masks.dtype != np.bool_ or 0 in masks.shape[1:]:
        raise FrameError(
            f"masks must be [n, H, W] bool, got {list(masks.shape)} {masks.dtype}; use masks > 0"
        )
    return encode_crops(crop_masks(masks), (masks.shape[1], masks.shape[2]))


def encode_crops(crops: Sequence[MaskCrop], size: tuple[int, int]) -> list[RLE]:
    """Compress the masks of one frame from their crops.

    Args:
        crops: n masks.
        size: (H, W) of the frame in pixels.
    """
    runs = [_runs(crop, size) for crop in crops]
    return [{"size": [*size], "counts": counts} for counts in _compress(runs)] if runs else []


def _runs(crop: MaskCrop, size: tuple[int, int]) -> Ints:
    """Return the runs of a mask down the columns of its frame (H, W), starting with background."""
    height, width = crop.pixels.shape
    # A background pixel below each column ends the column's last run, so that one search finds all runs.
    columns = np.zeros((width, height + 1), np.bool_)
    columns[:, :height] = crop.pixels.T
    flat = columns.ravel()
    changes = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    if len(flat) and flat[0]:
        changes = np.concatenate([[0], changes])
    column, row = np.divmod(changes, height + 1)
    edges = (crop.left + column) * size[0] + (crop.top + row)  # starts and stops alternate
    if height == size[0] and len(edges):
        # Only in a crop of full height can a run continue in the next column.
        apart = edges[1:-1:2] != edges[2::2]
        edges = edges[np.concatenate([[True], np.repeat(apart, 2), [True]])]
    runs: Ints = np.diff(edges, prepend=0, append=size[0] * size[1])
    return runs if runs[-1] else runs[:-1]


def _compress(masks: Sequence[Ints]) -> list[str]:
    """Return the text of each mask's runs; vectorised, because a frame can have thousands of runs."""
    lengths = [len(runs) for runs in masks]
    values = np.concatenate(masks)
    ends = np.cumsum(lengths)
    # From the fourth run on, write the difference to the run two before.
    written = values.copy()
    written[2:] -= values[:-2]
    for start, stop in zip(ends - lengths, ends, strict=True):
        written[start : min(start + 3, stop)] = values[start : min(start + 3, stop)]
    # The highest bit of the last digit is the sign, so a number has enough digits to keep this bit free.
    magnitude = np.where(written < 0, ~written, written)
    digits = 1 + (magnitude[:, None] >= _DIGIT_LIMITS).sum(axis=1)
    most = int(digits.max())
    place = np.arange(most)
    characters = (written[:, None] >> (5 * place)) & 31
    characters += 48 + 32 * (place < digits[:, None] - 1)
    text = characters.astype(np.uint8)[place < digits[:, None]].tobytes().decode("ascii")
    cuts = np.cumsum(digits)[ends - 1].tolist()
    return [text[start:stop] for start, stop in zip([0, *cuts[:-1]], cuts, strict=True)]


def decode_rle(rle: Mapping[str, Any]) -> Bools:
    """Expand a compressed mask to [H, W] bool.

    pycocotools is not used because its decoder returns uninitialised memory if the runs end early.

    Args:
        rle: mapping with `size` [H, W] and `counts` as text or bytes.

    Raises:
        FrameError: the runs are malformed, or do not add up to the size.
    """
    try:
        height, width = (int(side) for side in rle["size"])
        counts = rle["counts"]
        text = counts if isinstance(counts, bytes) else counts.encode("ascii")
        runs = _expand_runs(text)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise FrameError(f"not a compressed RLE mask: {error}; write the mask with encode_rle") from error
    if height < 1 or width < 1 or height * width > MAX_PIXELS:
        raise FrameError(
            f"an RLE mask is {height}x{width}; it must have 1 to {MAX_PIXELS} pixels; write it with encode_rle"
        )
    if min(runs, default=-1) < 0 or sum(runs) != height * width:
        raise FrameError(
            f"runs of an RLE mask of {height}x{width} add up to {sum(runs)}; write the mask with encode_rle"
        )
    columns = np.repeat(np.arange(len(runs)) % 2 == 1, runs)
    return np.ascontiguousarray(columns.reshape(width, height).T, dtype=np.bool_)


def _expand_runs(text: bytes) -> list[int]:
    runs: list[int] = []
    value = shift = 0
    for character in text:
        digit = character - 48
        if not 0 <= digit < 64 or shift > 30:
            raise ValueError(f"unexpected character {chr(character)!r}")
        value |= (digit & 31) << shift
        shift += 5
        if digit & 32:  # more digits follow
            continue
        if digit & 16:  # a negative number, in two's complement
            value -= 1 << shift
        # The first three runs are written as they are, the others as differences.
        runs.append(value + runs[-2] if len(runs) > 2 else value)
        value = shift = 0
    if shift:
        raise ValueError("the last run is cut short")
    return runs
