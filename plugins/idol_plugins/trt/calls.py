"""Attributes, types and shapes that the TensorRT plugin must accept, and those that it must refuse."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from idol_plugins.reference import Shapes
from idol_plugins.trt.harness import Field, FieldType, Tensor
from idol_plugins.trt.harness import TensorType as T

__all__ = [
    "COMBINATIONS",
    "MAX_LEVELS",
    "SHAPES",
    "absurd_calls",
    "bad_fields",
    "empty_calls",
    "make_fields",
    "make_tensors",
    "misfits",
    "resized",
]

# Sizes of a call. Letters as in `idol_plugins.reference`.
SHAPES: Shapes = ((9, 14), (5, 7), (3, 4), (1, 1))
N, S, Q, M, D, P, L = 2, 174, 37, 8, 32, 4, 4
MAX_LEVELS = 16  # IDOL_CUDA_MOST_LEVELS
_FLOATS = (T.FLOAT, T.FLOAT, T.FLOAT, T.FLOAT)
# Types of value, merged, reference and output: every combination that the plugin must support.
COMBINATIONS = {
    _FLOATS,
    (T.HALF, T.HALF, T.FLOAT, T.HALF),
    (T.HALF, T.FLOAT, T.FLOAT, T.HALF),
    (T.BF16, T.FLOAT, T.FLOAT, T.BF16),
}


def make_fields(
    heads: int = M, points: int = P, shapes: Shapes = SHAPES, kind: FieldType = FieldType.INT32
) -> list[Field]:
    """Return the fields of a node with these attributes."""
    dtype = np.int64 if kind is FieldType.INT64 else np.int32
    values = {"heads": [heads], "points": [points], "shapes": [side for shape in shapes for side in shape]}
    return [Field(name, kind, np.array(value, dtype)) for name, value in values.items()]


def make_tensors(
    images: int = N, queries: int = Q, references: int | None = None, *, types: Sequence[int] = _FLOATS
) -> list[Tensor]:
    """Return the tensors of a call of the plugin that `make_fields()` describes."""
    sizes = (
        (images, S, M, D),
        (images, queries, 3 * M * L * P),
        (images if references is None else references, queries, L, 4),
        (images, queries, M * D),
    )
    return [Tensor(kind, size) for kind, size in zip(types, sizes, strict=True)]


def resized(index: int, *sizes: int, tensors: list[Tensor] | None = None) -> list[Tensor]:
    """Return the tensors of a call (default: `make_tensors()`) with other sizes of one of them."""
    tensors = make_tensors() if tensors is None else tensors
    return [replace(tensor, sizes=sizes) if i == index else tensor for i, tensor in enumerate(tensors)]


def misfits() -> dict[str, list[Tensor]]:
    """Return calls whose tensors do not fit together, by a description of the fault."""
    return {
        "another number of tokens": resized(0, N, S + 1, M, D),
        "another number of heads": resized(0, N, S, M + 1, D),
        "a value of three dimensions": resized(0, N, S, M * D),
        "a narrow merged": resized(1, N, Q, 3 * M * L * P - 1),
        "a merged of other images": resized(1, N + 1, Q, 3 * M * L * P),
        "references of other images": resized(2, N + 1, Q, L, 4),
        "references of other queries": resized(2, N, Q + 1, L, 4),
        "references of other levels": resized(2, N, Q, L + 1, 4),
        "references of three numbers": resized(2, N, Q, L, 3),
        "a narrow output": resized(3, N, Q, M * D - 1),
        "an output of other queries": resized(3, N, Q + 1, M * D),
    }


def empty_calls() -> dict[str, list[Tensor]]:
    """Return calls with an empty output, which must succeed (NVIDIA/TensorRT#4260), by a description."""
    return {
        "no images": make_tensors(0),
        "no images, and one reference": make_tensors(0, Q, 1),
        "no queries": make_tensors(N, 0),
        "heads of no width": resized(3, N, Q, 0, tensors=resized(0, N, S, M, 0)),
        "all sizes zero": [replace(t, sizes=(0,) * len(t.sizes)) for t in make_tensors()],
    }


def bad_fields() -> dict[str, list[Field]]:
    """Return attributes that the creator must refuse, by a description of the fault."""
    heads, points, shapes = make_fields()
    integers = FieldType.INT32, np.array([8], np.int32)
    sides = np.arange(1, 2 * MAX_LEVELS + 3, dtype=np.int32)

    def shaped(*values: int) -> list[Field]:
        return [heads, points, Field("shapes", FieldType.INT64, np.array(values, np.int64))]

    return {
        "no fields": [],
        "no heads": [points, shapes],
        "no points": [heads, shapes],
        "no shapes": [heads, points],
        "heads of no memory": [Field("heads", FieldType.INT32, None, 1), points, shapes],
        "no number of heads": [Field("heads", *integers, 0), points, shapes],
        "a negative number of fields": [Field("heads", *integers, -1), points, shapes],
        "floating heads": [Field("heads", FieldType.FLOAT32, np.ones(1, np.float32)), points, shapes],
        "zero heads": make_fields(heads=0),
        "minus one head": make_fields(heads=-1),
        "more heads than any memory": make_fields(heads=2**50, kind=FieldType.INT64),
        "zero points": make_fields(points=0),
        "half a level": shaped(4),
        "an empty level": shaped(4, 4, 0, 4),
        "a level too long": shaped(1, 2**40),
        "levels too large": shaped(2**24, 2**24, 2**24, 2**24),
        "too many levels": [heads, points, Field("shapes", FieldType.INT32, sides)],
    }


def absurd_calls() -> dict[str, list[Tensor]]:
    """Return calls that `enqueue` must refuse without a crash, by a description of the fault."""
    return {
        **misfits(),
        "2^40 images": make_tensors(2**40),
        "2^62 queries": make_tensors(N, 2**62),
        "heads 2^38 wide": resized(3, N, Q, M * 2**38, tensors=resized(0, N, S, M, 2**38)),
        "no tokens": resized(0, N, 0, M, D),
        "all sizes at their largest": [replace(t, sizes=(2**63 - 1,) * len(t.sizes)) for t in make_tensors()],
        "sizes that are not known": make_tensors(-1, -1),
        "no dimensions": [replace(t, sizes=()) for t in make_tensors()],
        "half references": make_tensors(types=(T.FLOAT, T.FLOAT, T.HALF, T.FLOAT)),
        "bfloat16 projections": make_tensors(types=(T.BF16, T.BF16, T.FLOAT, T.BF16)),
        "an output of another type": make_tensors(types=(T.HALF, T.HALF, T.FLOAT, T.FLOAT)),
        "a vectorised format": [replace(t, format=4) for t in make_tensors()],
    }
