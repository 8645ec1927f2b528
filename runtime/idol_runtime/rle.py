"""Masks as COCO's compressed run lengths: {"size": [H, W], "counts": text}.

Runs alternate background and foreground down the columns, starting with background; each is written, less the
run two before it, in base 32 from the character "0" on.

n: masks; H, W: height and width in pixels.
"""

from collections.abc import Mapping
from typing import Any, TypedDict

import numpy as np
from numpy.typing import NDArray

from idol_runtime.errors import FrameError
from idol_runtime.optional import import_optional

__all__ = ["RLE", "decode_rle", "encode_rle", "encode_rles"]


class RLE(TypedDict):
    """A compressed mask, as pycocotools and the YTVIS and OVIS servers read it.

    Attributes:
        size: [height, width] in pixels.
        counts: the compressed runs, as text.
    """

    size: list[int]
    counts: str


def encode_rle(mask: NDArray[np.bool_]) -> RLE:
    """Compress one mask.

    Args:
        mask: [H, W] bool.

    Raises:
        FrameError: not a two-dimensional bool array, or one without pixels.
        MissingDependencyError: pycocotools is not installed.
    """
    return encode_rles(mask[None])[0]


def encode_rles(masks: NDArray[np.bool_]) -> list[RLE]:
    """Compress the masks of one frame.

    Args:
        masks: [n, H, W] bool; n may be 0.

    Returns:
        One RLE per mask.

    Raises:
        FrameError: not a three-dimensional bool array, or masks without pixels.
        MissingDependencyError: pycocotools is not installed.
    """
    if masks.ndim != 3 or masks.dtype != np.bool_ or 0 in masks.shape[1:]:
        raise FrameError(
            f"masks must be [n, H, W] bool, got {list(masks.shape)} {masks.dtype}; use masks > 0"
        )
    coco = import_optional("pycocotools.mask", "pycocotools", "video", "writing masks as RLE")
    height, width = masks.shape[1:]
    rles: list[RLE] = []
    for mask in masks:
        counts = coco.encode(np.asfortranarray(mask, dtype=np.uint8))["counts"]
        rles.append({"size": [height, width], "counts": counts.decode("ascii")})
    return rles


def decode_rle(rle: Mapping[str, Any]) -> NDArray[np.bool_]:
    """Expand a compressed mask.

    Needs no pycocotools, whose decoder returns uninitialised memory where the runs end early.

    Args:
        rle: `size` [H, W] and `counts`, as text or bytes.

    Returns:
        [H, W] bool.

    Raises:
        FrameError: the runs are malformed, or do not fill the size.
    """
    try:
        height, width = (int(side) for side in rle["size"])
        counts = rle["counts"]
        text = counts if isinstance(counts, bytes) else counts.encode("ascii")
        runs = _expand_runs(text)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise FrameError(f"not a compressed RLE mask ({error}); write it with encode_rle") from error
    if height < 1 or width < 1 or min(runs, default=-1) < 0 or sum(runs) != height * width:
        raise FrameError(
            f"an RLE mask of {height}x{width} whose runs sum to {sum(runs)}; write it with encode_rle"
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
        if digit & 16:  # a negative difference, in two's complement
            value -= 1 << shift
        # The first three runs stand for themselves: the very first is written alone, and so are the next two.
        runs.append(value + runs[-2] if len(runs) > 2 else value)
        value = shift = 0
    if shift:
        raise ValueError("the last run is cut short")
    return runs
