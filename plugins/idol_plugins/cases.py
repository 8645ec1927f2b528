"""Inputs of the kernel and the expected outputs: ordinary inputs, and inputs on which kernels fail.

Letters as in `idol_plugins.reference`. Arrays are float32 or float64, already rounded to the types that a case names,
so that numpy alone is enough: `pack` and `unpack` convert them to and from what a library reads and writes.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

import numpy as np

from idol_plugins.reference import Array, Shapes, deformable_attention, ms_deform_attn

__all__ = ["TOLERANCES", "Case", "make_cases", "pack", "unpack"]

# Allowed relative L2 error of an output, given the same rounded inputs. Half a step of fp16 is 2.4e-4 of the value, and
# of bf16 2e-3; fp32 sums 64 products whose locations are accurate to a few 1e-7 of a map's side.
TOLERANCES = {"float32": 1e-5, "float16": 1e-3, "bfloat16": 1e-2}
# Types of the values and of the projections.
_TYPES = (("float32", "float32"), ("float16", "float16"), ("float16", "float32"), ("bfloat16", "float32"))


@dataclass(frozen=True, eq=False)
class Case:
    """The arguments of one call.

    Attributes:
        name: What is special about the case.
        dtype: Type of value and output.
        merged_dtype: Type of the projections.
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
        """Name and types."""
        return f"{self.name}, {self.dtype} values, {self.merged_dtype} projections"

    @property
    def output_shape(self) -> tuple[int, int, int]:
        """Shape of the output, (N, Q, M * D)."""
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
        """Output of the reference implementation, [N, Q, M * D] float64."""
        value, reference = self.value.astype(np.float64), self.reference.astype(np.float64)
        with np.errstate(all="ignore"):
            return deformable_attention(value, self.shapes, *self.projections, reference)

    @cached_property
    def classic(self) -> tuple[Array, Array]:
        """Arguments of a similar classic call: locations [N, Q, M, L, P, 2], weights [N, Q, M, L, P], float32."""
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
        """Output of the reference implementation for `classic`, [N, Q, M * D] float64."""
        locations, weights = (array.astype(np.float64) for array in self.classic)
        with np.errstate(all="ignore"):
            return ms_deform_attn(self.value.astype(np.float64), self.shapes, locations, weights)


def pack(array: Array, dtype: str) -> Array:
    """Convert to what a library reads; bfloat16 becomes its bits as uint16, because numpy has no such type."""
    if dtype != "bfloat16":
        with np.errstate(over="ignore"):
            return array.astype(dtype)
    bits = np.ascontiguousarray(array, np.float32).view(np.uint32)
    # Round to nearest, ties to even. NaN is set apart: the addition could carry its bits into the sign.
    nearest = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    return np.where(np.isnan(array), 0x7FC0, nearest).astype(np.uint16)


def unpack(array: Array, dtype: str) -> Array:
    """Convert what a library wrote to float32."""
    if dtype != "bfloat16":
        return array.astype(np.float32)
    return (array.astype(np.uint32) << 16).view(np.float32)


@dataclass
class _Draft:
    """Arguments of a case before they are rounded, in float32."""

    value: Array  # [N, S, M, D]
    offsets: Array  # [N, Q, M, L, P, 2]
    logits: Array  # [N, Q, M, L * P]
    reference: Array  # [N or 1, Q, L, 2 or 4]


_Change: TypeAlias = Callable[[_Draft, np.random.Generator], None]


@dataclass(frozen=True)
class _Recipe:
    """Sizes and form of a case, and a change of its random arguments."""

    change: _Change = lambda draft, rng: None
    sizes: tuple[int, int, int, int, int] = (2, 11, 8, 32, 4)  # N, Q, M, D, P
    shapes: Shapes = ((9, 14), (5, 7), (3, 4), (1, 1))
    box: bool = False
    shared: bool = False

    def make(self, name: str, types: tuple[str, str], rng: np.random.Generator) -> Case:
        """Make a case with the given types of values and projections."""
        N, Q, M, D, P = self.sizes
        L, S = len(self.shapes), sum(h * w for h, w in self.shapes)

        def normal(*shape: int) -> Array:
            return rng.standard_normal(shape, np.float32)

        # The order of the draws is part of a seed's meaning.
        reference = rng.uniform(-0.1, 1.1, (1 if self.shared else N, Q, L, 4 if self.box else 2))
        logits = 2 * normal(N, Q, M, L * P)
        value, offsets = normal(N, S, M, D), 3 * normal(N, Q, M, L, P, 2)
        draft = _Draft(value, offsets, logits, reference.astype(np.float32))
        self.change(draft, rng)
        row = M * L * P
        merged = np.concatenate([draft.offsets.reshape(N, Q, 2 * row), draft.logits.reshape(N, Q, row)], -1)
        arrays = zip((draft.value, merged), types, strict=True)
        value, merged = (unpack(pack(array, dtype), dtype) for array, dtype in arrays)
        return Case(name, *types, self.shapes, P, value, merged, draft.reference)


def _scatter(rng: np.random.Generator, array: Array, *numbers: float) -> None:
    """Write each of the numbers to three random places."""
    for number in 3 * numbers:
        array[tuple(rng.integers(0, size) for size in array.shape)] = number


_LEVELS = np.array([[w, h] for h, w in _Recipe.shapes])


def _edges(draft: _Draft, rng: np.random.Generator) -> None:
    # On borders, cell edges and cell centres, where a sample passes from one cell to the next.
    steps = rng.integers(0, 2 * _LEVELS + 1, draft.reference.shape)
    draft.reference = (steps / (2 * _LEVELS)).astype(np.float32)
    draft.offsets = rng.integers(-2, 3, draft.offsets.shape).astype(np.float32) / 2


def _outside(draft: _Draft, rng: np.random.Generator) -> None:
    draft.reference = rng.uniform(-1.5, 2.5, draft.reference.shape).astype(np.float32)


def _huge_offsets(draft: _Draft, rng: np.random.Generator) -> None:
    _scatter(rng, draft.offsets, 1e5, -1e5, 1e9, -1e9, 2.0**31, 2.0**32 + 512, 3e38, -3e38)


def _lost_locations(draft: _Draft, rng: np.random.Generator) -> None:
    _scatter(rng, draft.offsets, np.nan, np.inf, -np.inf)
    _scatter(rng, draft.reference, np.nan, np.inf, -np.inf)


def _infinite_logits(draft: _Draft, rng: np.random.Generator) -> None:
    _scatter(rng, draft.logits, np.inf, -np.inf, -np.inf, -np.inf)
    draft.logits[0, 0, 0] = -np.inf  # all logits of a head


def _steep_logits(draft: _Draft, _rng: np.random.Generator) -> None:
    draft.logits *= 200  # exp() overflows unless the maximum is subtracted first


def _nan_values(draft: _Draft, _rng: np.random.Generator) -> None:
    draft.value[:, ::29, 1] = np.nan  # in one head


def _flat_boxes(draft: _Draft, _rng: np.random.Generator) -> None:
    draft.reference[:, ::2, :, 2:] = 0
    draft.reference[:, 1::4, :, 2:] *= -1


# By name; the name appears in reports, and the position is part of the seed.
_SPECIAL = {
    "points": _Recipe(),
    "boxes": _Recipe(box=True),
    "shared reference": _Recipe(box=True, shared=True),
    "cell edges": _Recipe(_edges),
    "outside the maps": _Recipe(_outside),
    "huge offsets": _Recipe(_huge_offsets),
    "NaN and infinite locations": _Recipe(_lost_locations, box=True),
    "NaN logits": _Recipe(lambda draft, rng: _scatter(rng, draft.logits, np.nan)),
    "infinite logits": _Recipe(_infinite_logits),
    "steep logits": _Recipe(_steep_logits),
    "NaN values": _Recipe(_nan_values),
    "flat boxes": _Recipe(_flat_boxes, box=True),
    "one-pixel levels": _Recipe(shapes=((1, 1), (1, 6), (5, 1), (1, 1))),
    "one of everything": _Recipe(sizes=(1, 1, 1, 1, 1), shapes=((1, 1),)),
    "no queries": _Recipe(sizes=(2, 0, 8, 32, 4)),
    "no images": _Recipe(sizes=(0, 3, 8, 32, 4)),
    "an encoder": _Recipe(sizes=(1, 65, 4, 16, 4), shapes=((6, 8), (3, 4), (2, 2), (1, 1))),
    "odd sizes": _Recipe(sizes=(3, 7, 3, 5, 3), shapes=((4, 6), (2, 3))),
    "wide heads": _Recipe(sizes=(1, 9, 2, 64, 2), shapes=((8, 8), (4, 4), (2, 2))),
    "many levels": _Recipe(sizes=(1, 5, 4, 8, 2), shapes=tuple((8 - i, 9 - i) for i in range(7))),
    "many points": _Recipe(sizes=(1, 5, 2, 16, 13), shapes=((6, 5),)),
}


def _random(rng: np.random.Generator) -> _Recipe:
    def size(low: int, high: int) -> int:
        return int(rng.integers(low, high + 1))

    shapes = tuple((size(1, 9), size(1, 9)) for _ in range(size(1, 5)))
    width = int(rng.choice([1, 4, 7, 8, 16, 24, 32]))
    sizes = (size(1, 2), size(1, 12), size(1, 8), width, size(1, 5))
    return _Recipe(sizes=sizes, shapes=shapes, box=bool(size(0, 1)), shared=bool(size(0, 1)))


def make_cases(seed: int = 0, count: int = 24) -> list[Case]:
    """Make every special case in every pair of types, then cases of random sizes.

    Args:
        seed: Seed of the random numbers; the same seed gives the same cases.
        count: Number of cases of random sizes.
    """
    cases = [
        recipe.make(name, types, np.random.default_rng((seed, i, j)))
        for i, (name, recipe) in enumerate(_SPECIAL.items())
        for j, types in enumerate(_TYPES)
    ]
    for i in range(count):
        rng = np.random.default_rng((seed, len(_SPECIAL), i))
        cases.append(_random(rng).make(f"random {i}", _TYPES[i % len(_TYPES)], rng))
    return cases
