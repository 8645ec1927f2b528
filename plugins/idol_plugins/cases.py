"""Inputs for the kernel and the right answers to them: ordinary ones, and those on which kernels go wrong.

Letters as in `idol_plugins.reference`. Everything is held in float32 and float64, already rounded to the types that a
case names, so that numpy alone is enough: `pack` and `unpack` turn it into what a library reads and writes.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from idol_plugins.reference import Shapes, deformable_attention, ms_deform_attn

__all__ = ["TOLERANCES", "Case", "make_cases", "pack", "unpack"]

Array: TypeAlias = NDArray[Any]

# Relative L2 of an output, given the same rounded inputs: half a step of fp16 is 2.4e-4 and of bf16 2e-3 of the value,
# and fp32 sums 64 products whose locations are good to a few 1e-7 of a map's side.
TOLERANCES = {"float32": 1e-5, "float16": 1e-3, "bfloat16": 1e-2}
# Of values, and of projections.
_TYPES = (("float32", "float32"), ("float16", "float16"), ("float16", "float32"), ("bfloat16", "float32"))
_SHAPES: Shapes = ((9, 14), (5, 7), (3, 4), (1, 1))


@dataclass(frozen=True, eq=False)
class Case:
    """The arguments of one call.

    Attributes:
        name: what is special about it.
        dtype: of value and output.
        merged_dtype: of the projections.
        shapes: (h, w) per level.
        points: P.
        value: [N, S, M, D] float32, exact in `dtype`.
        merged: [N, Q, M * L * P * 3] float32, exact in `merged_dtype`.
        reference: [N or 1, Q, L, 2 or 4] float32.
    """

    name: str
    dtype: str
    merged_dtype: str
    shapes: Shapes
    points: int
    value: Array
    merged: Array
    reference: Array

    @property
    def title(self) -> str:
        """Its name and types."""
        return f"{self.name}, {self.dtype} values, {self.merged_dtype} projections"

    @property
    def output_shape(self) -> tuple[int, int, int]:
        """[N, Q, M * D]."""
        N, _, M, D = self.value.shape
        return N, self.merged.shape[1], M * D

    @cached_property
    def projections(self) -> tuple[Array, Array]:
        """Offsets [N, Q, M, L, P, 2] and logits [N, Q, M, L * P], float64."""
        N, Q, _ = self.merged.shape
        M, L, P = self.value.shape[2], len(self.shapes), self.points
        offsets, logits = np.split(self.merged.astype(np.float64), [2 * M * L * P], -1)
        return offsets.reshape(N, Q, M, L, P, 2), logits.reshape(N, Q, M, L * P)

    @cached_property
    def expected(self) -> Array:
        """[N, Q, M * D] float64, by the twin."""
        with np.errstate(all="ignore"):
            return deformable_attention(
                self.value.astype(np.float64),
                self.shapes,
                *self.projections,
                self.reference.astype(np.float64),
            )

    @cached_property
    def classic(self) -> tuple[Array, Array]:
        """A classic call of this reach: locations [N, Q, M, L, P, 2] and weights [N, Q, M, L, P], float32."""
        offsets, logits = self.projections
        centre = self.reference[:, :, None, :, None, :2].astype(np.float64)
        with np.errstate(all="ignore"):
            sides = np.array([[w, h] for h, w in self.shapes], np.float64)[:, None]
            if self.reference.shape[-1] == 4:
                sides = 2 * self.points / self.reference[:, :, None, :, None, 2:].astype(np.float64)
            locations = (centre + offsets / sides).astype(np.float32)
            weights = (logits / logits.shape[-1]).reshape(offsets.shape[:-1]).astype(np.float32)
        return locations, weights

    @cached_property
    def expected_classic(self) -> Array:
        """[N, Q, M * D] float64, by the twin."""
        locations, weights = (array.astype(np.float64) for array in self.classic)
        with np.errstate(all="ignore"):
            return ms_deform_attn(self.value.astype(np.float64), self.shapes, locations, weights)


def pack(array: Array, dtype: str) -> Array:
    """As a library reads it; bfloat16 as its bits, since numpy has no such type."""
    if dtype != "bfloat16":
        with np.errstate(over="ignore"):
            return array.astype(dtype)
    bits = np.ascontiguousarray(array, np.float32).view(np.uint32)
    # To nearest, ties to even; the sum would carry a NaN's bits into its sign.
    nearest = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    return np.where(np.isnan(array), 0x7FC0, nearest).astype(np.uint16)


def unpack(array: Array, dtype: str) -> Array:
    """What a library wrote, float32."""
    if dtype != "bfloat16":
        return array.astype(np.float32)
    return (array.astype(np.uint32) << 16).view(np.float32)


@dataclass
class _Draft:
    """Arguments that may still be changed, in float32."""

    shapes: Shapes
    value: Array  # [N, S, M, D]
    offsets: Array  # [N, Q, M, L, P, 2]
    logits: Array  # [N, Q, M, L * P]
    reference: Array  # [N or 1, Q, L, 2 or 4]


def _draft(
    rng: np.random.Generator,
    sizes: tuple[int, int, int, int, int] = (2, 11, 8, 32, 4),  # N, Q, M, D, P
    shapes: Shapes = _SHAPES,
    *,
    box: bool = False,
    shared: bool = False,
) -> _Draft:
    N, Q, M, D, P = sizes
    L, S = len(shapes), sum(h * w for h, w in shapes)

    def normal(*shape: int) -> Array:
        return rng.standard_normal(shape, np.float32)

    reference = rng.uniform(-0.1, 1.1, (1 if shared else N, Q, L, 4 if box else 2)).astype(np.float32)
    logits = 2 * normal(N, Q, M, L * P)
    return _Draft(shapes, normal(N, S, M, D), 3 * normal(N, Q, M, L, P, 2), logits, reference)


def _scatter(rng: np.random.Generator, array: Array, numbers: tuple[float, ...]) -> None:
    """Puts each of the numbers into a few places."""
    for number in 3 * numbers:
        array[tuple(rng.integers(0, size) for size in array.shape)] = number


def _edges(rng: np.random.Generator) -> _Draft:
    draft = _draft(rng)
    # On the borders, the cells' edges, and their centres, where a sample passes from one cell to the next.
    sides = np.array([[w, h] for h, w in draft.shapes])
    steps = rng.integers(0, 2 * sides + 1, draft.reference.shape)
    draft.reference = (steps / (2 * sides)).astype(np.float32)
    draft.offsets = rng.integers(-2, 3, draft.offsets.shape).astype(np.float32) / 2
    return draft


def _outside(rng: np.random.Generator) -> _Draft:
    draft = _draft(rng)
    draft.reference = rng.uniform(-1.5, 2.5, draft.reference.shape).astype(np.float32)
    return draft


def _huge_offsets(rng: np.random.Generator) -> _Draft:
    draft = _draft(rng)
    _scatter(rng, draft.offsets, (1e5, -1e5, 1e9, -1e9, 2.0**31, 2.0**32 + 512, 3e38, -3e38))
    return draft


def _lost_locations(rng: np.random.Generator) -> _Draft:
    draft = _draft(rng, box=True)
    _scatter(rng, draft.offsets, (np.nan, np.inf, -np.inf))
    _scatter(rng, draft.reference, (np.nan, np.inf, -np.inf))
    return draft


def _nan_logits(rng: np.random.Generator) -> _Draft:
    draft = _draft(rng)
    _scatter(rng, draft.logits, (np.nan,))
    return draft


def _infinite_logits(rng: np.random.Generator) -> _Draft:
    draft = _draft(rng)
    _scatter(rng, draft.logits, (np.inf, -np.inf, -np.inf, -np.inf))
    draft.logits[0, 0, 0] = -np.inf  # all of a head's
    return draft


def _steep_logits(rng: np.random.Generator) -> _Draft:
    draft = _draft(rng)
    draft.logits *= 200  # exp() overflows unless the largest is taken off first
    return draft


def _values_not_finite(rng: np.random.Generator) -> _Draft:
    draft = _draft(rng)
    draft.value[:, ::29, 1] = np.nan  # of one head
    return draft


def _flat_boxes(rng: np.random.Generator) -> _Draft:
    draft = _draft(rng, box=True)
    draft.reference[:, ::2, :, 2:] = 0
    draft.reference[:, 1::4, :, 2:] *= -1
    return draft


_Maker: TypeAlias = Callable[[np.random.Generator], _Draft]
# By what is special about them; a name is found again in a report.
_SPECIAL: dict[str, _Maker] = {
    "points": lambda rng: _draft(rng),
    "boxes": lambda rng: _draft(rng, box=True),
    "shared reference": lambda rng: _draft(rng, box=True, shared=True),
    "cell edges": _edges,
    "outside the maps": _outside,
    "huge offsets": _huge_offsets,
    "NaN and infinite locations": _lost_locations,
    "NaN logits": _nan_logits,
    "infinite logits": _infinite_logits,
    "steep logits": _steep_logits,
    "NaN values": _values_not_finite,
    "flat boxes": _flat_boxes,
    "one-pixel levels": lambda rng: _draft(rng, shapes=((1, 1), (1, 6), (5, 1), (1, 1))),
    "one of everything": lambda rng: _draft(rng, (1, 1, 1, 1, 1), ((1, 1),)),
    "no queries": lambda rng: _draft(rng, (2, 0, 8, 32, 4)),
    "no images": lambda rng: _draft(rng, (0, 3, 8, 32, 4)),
    "an encoder": lambda rng: _draft(rng, (1, 65, 4, 16, 4), ((6, 8), (3, 4), (2, 2), (1, 1))),
    "odd sizes": lambda rng: _draft(rng, (3, 7, 3, 5, 3), ((4, 6), (2, 3))),
    "wide heads": lambda rng: _draft(rng, (1, 9, 2, 64, 2), ((8, 8), (4, 4), (2, 2))),
    "many levels": lambda rng: _draft(rng, (1, 5, 4, 8, 2), tuple((8 - i, 9 - i) for i in range(7))),
    "many points": lambda rng: _draft(rng, (1, 5, 2, 16, 13), ((6, 5),)),
}


def _random(rng: np.random.Generator) -> _Draft:
    def size(low: int, high: int) -> int:
        return int(rng.integers(low, high + 1))

    shapes = tuple((size(1, 9), size(1, 9)) for _ in range(size(1, 5)))
    width = int(rng.choice([1, 4, 7, 8, 16, 24, 32]))
    sizes = (size(1, 2), size(1, 12), size(1, 8), width, size(1, 5))
    return _draft(rng, sizes, shapes, box=bool(size(0, 1)), shared=bool(size(0, 1)))


def make_cases(seed: int = 0, count: int = 24) -> list[Case]:
    """Every special case in every pair of types, then `count` of random sizes; the same for the same seed."""
    cases = []
    for i, (name, make) in enumerate(_SPECIAL.items()):
        for j, types in enumerate(_TYPES):
            cases.append(_finish(name, make(np.random.default_rng((seed, i, j))), types))
    for i in range(count):
        draft = _random(np.random.default_rng((seed, len(_SPECIAL), i)))
        cases.append(_finish(f"random {i}", draft, _TYPES[i % len(_TYPES)]))
    return cases


def _finish(name: str, draft: _Draft, types: tuple[str, str]) -> Case:
    N, Q = draft.logits.shape[:2]
    row = 3 * int(np.prod(draft.logits.shape[2:]))
    merged = np.concatenate(
        [draft.offsets.reshape(N, Q, row * 2 // 3), draft.logits.reshape(N, Q, row // 3)], -1
    )
    value, merged = (
        unpack(pack(array, dtype), dtype) for array, dtype in zip((draft.value, merged), types, strict=True)
    )
    return Case(name, *types, draft.shapes, draft.offsets.shape[4], value, merged, draft.reference)
