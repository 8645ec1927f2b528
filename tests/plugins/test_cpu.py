"""The kernel against the reference implementation in float64: every instruction set, type and form; hostile inputs."""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from idol_plugins.cpu import CpuLibrary, Isa
from idol_plugins.errors import PluginError
from idol_plugins.reference import (
    Shapes,
    deformable_attention,
    deformable_attention_backward,
    ms_deform_attn,
)

Array = NDArray[Any]
SHAPES: Shapes = ((9, 14), (5, 7), (3, 4), (1, 1))
# Relative error of an output, given the same rounded inputs. Half a step of fp16 is 2.4e-4 of the value, of bf16 2e-3;
# fp32 sums 64 products whose locations are accurate to a few 1e-7 of a map's side.
TOLERANCES = {"float32": 1e-5, "float16": 1e-3, "bfloat16": 1e-2}


@pytest.fixture(scope="session")
def cpu_library(libraries: Path) -> CpuLibrary:
    """The kernel, through its C interface."""
    return CpuLibrary(libraries / "libidol_deform_attn_cpu.so")


@dataclass
class Case:
    """The arguments of a fused call."""

    value: Array
    shapes: Shapes
    merged: Array
    reference: Array
    points: int = 4

    @property
    def projections(self) -> tuple[Array, Array]:
        """Offsets [N, Q, M, L, P, 2] and logits [N, Q, M, L * P] in float64."""
        N, Q, _ = self.merged.shape
        M, L, P = self.value.shape[2], len(self.shapes), self.points
        merged = self.merged.astype(np.float64)
        return merged[..., : 2 * M * L * P].reshape(N, Q, M, L, P, 2), merged[..., 2 * M * L * P :].reshape(
            N, Q, M, L * P
        )

    def expected(self) -> Array:
        """Return the output of the reference implementation."""
        with np.errstate(all="ignore"):
            return deformable_attention(
                self.value.astype(np.float64),
                self.shapes,
                *self.projections,
                self.reference.astype(np.float64),
            )

    def expected_gradients(self, grad: Array) -> tuple[Array, Array, Array]:
        """Return the reference gradients of value, merged and reference."""
        value, reference = (array.astype(np.float64) for array in (self.value, self.reference))
        of_value, of_offsets, of_logits, of_reference = deformable_attention_backward(
            grad.astype(np.float64), value, self.shapes, *self.projections, reference
        )
        N, Q, width = self.merged.shape
        rows = of_offsets.reshape(N, Q, 2 * width // 3), of_logits.reshape(N, Q, width // 3)
        return of_value, np.concatenate(rows, -1), of_reference

    def grad(self, seed: int = 0) -> Array:
        """Return a random gradient of the output."""
        shape = (*self.merged.shape[:2], self.value.shape[2] * self.value.shape[3])
        return np.random.default_rng(seed).standard_normal(shape).astype(self.value.dtype)


def make_case(
    seed: int,
    shapes: Shapes = SHAPES,
    *,
    sizes: tuple[int, int, int, int, int] = (2, 37, 8, 32, 4),  # N, Q, M, D, P
    box: bool = False,
    spread: float = 3.0,
) -> Case:
    N, Q, M, D, P = sizes
    rng = np.random.default_rng(seed)
    S, L = sum(h * w for h, w in shapes), len(shapes)
    offsets = spread * rng.standard_normal((N, Q, M * L * P * 2))
    logits = 2 * rng.standard_normal((N, Q, M * L * P))
    return Case(
        rng.standard_normal((N, S, M, D)).astype(np.float32),
        shapes,
        np.concatenate([offsets, logits], -1).astype(np.float32),
        rng.uniform(-0.1, 1.1, (1 if seed % 2 else N, Q, L, 4 if box else 2)).astype(np.float32),
        P,
    )


def cast(case: Case, dtype: str) -> Case:
    """Return the case with values of another type, and projections as well unless it is bfloat16."""
    if dtype == "bfloat16":
        bfloat16 = pytest.importorskip("ml_dtypes", reason="numpy has no bfloat16 of its own").bfloat16
        return Case(case.value.astype(bfloat16), case.shapes, case.merged, case.reference, case.points)
    return Case(case.value.astype(dtype), case.shapes, case.merged.astype(dtype), case.reference, case.points)


def isas(library: CpuLibrary, width: int) -> list[Isa]:
    """Return the supported instruction sets."""
    return [isa for isa in Isa if isa is not Isa.AUTO and library.offers(isa, width)]


@contextlib.contextmanager
def needs(library: CpuLibrary, isa: Isa, width: int) -> Iterator[None]:
    if not library.offers(isa, width):
        pytest.skip(f"this processor has no {isa.name}")
    yield


@pytest.mark.parametrize("isa", Isa)
@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("box", [False, True])
def test_fused_equals_the_reference(
    cpu_library: CpuLibrary, relative_error: Callable[..., float], isa: Isa, dtype: str, box: bool
) -> None:
    case = cast(make_case(1, box=box), dtype)
    with needs(cpu_library, isa, 32):
        out = cpu_library.deformable_attention(
            case.value, SHAPES, case.merged, case.reference, isa=isa, threads=2
        )
    assert out.dtype == case.value.dtype
    assert relative_error(out, case.expected()) <= TOLERANCES[dtype]


@pytest.mark.parametrize("isa", Isa)
@pytest.mark.parametrize("dtype", TOLERANCES)
def test_classic_equals_the_reference(
    cpu_library: CpuLibrary, relative_error: Callable[..., float], isa: Isa, dtype: str
) -> None:
    value = cast(make_case(2), dtype).value
    rng = np.random.default_rng(3)
    locations = rng.uniform(-0.2, 1.2, (2, 5, 8, 4, 3, 2)).astype(np.float32)
    weights = rng.standard_normal((2, 5, 8, 4, 3)).astype(np.float32)
    with needs(cpu_library, isa, 32):
        out = cpu_library.ms_deform_attn(value, SHAPES, locations, weights, isa=isa)
    expected = ms_deform_attn(value.astype(np.float64), SHAPES, *map(np.float64, (locations, weights)))
    assert relative_error(out, expected) <= TOLERANCES[dtype]


def test_half_values_take_float_projections(
    cpu_library: CpuLibrary, relative_error: Callable[..., float]
) -> None:
    case = make_case(4)
    case.value = case.value.astype(np.float16)
    out = cpu_library.deformable_attention(case.value, SHAPES, case.merged, case.reference)
    assert relative_error(out, case.expected()) <= TOLERANCES["float16"]


@pytest.mark.parametrize("width", [1, 3, 4, 8, 16, 24, 32, 48, 64, 96])
def test_every_width_and_instruction_set(
    cpu_library: CpuLibrary, relative_error: Callable[..., float], width: int
) -> None:
    case = make_case(5, sizes=(1, 9, 3, width, 2))
    for isa in (Isa.AUTO, *isas(cpu_library, width)):
        out = cpu_library.deformable_attention(case.value, SHAPES, case.merged, case.reference, isa=isa)
        assert relative_error(out, case.expected()) <= 1e-5, isa.name


def test_an_encoder_visits_every_query_once(
    cpu_library: CpuLibrary, relative_error: Callable[..., float]
) -> None:
    shapes = ((17, 11), (9, 6), (5, 3), (1, 2))
    for threads in (1, 3):
        case = make_case(6, shapes, sizes=(2, 258, 2, 8, 4))
        out = cpu_library.deformable_attention(
            case.value, shapes, case.merged, case.reference, threads=threads
        )
        assert relative_error(out, case.expected()) <= 1e-5


@given(
    seed=st.integers(0, 2**32 - 1),
    shapes=st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=5),
    sizes=st.tuples(*(st.integers(low, high) for low, high in ((1, 2), (0, 6), (1, 3), (1, 33), (1, 5)))),
    box=st.booleans(),
    spread=st.sampled_from([0.0, 1.0, 30.0, 1e9, 1e38]),
)
def test_any_sizes_and_reach(
    cpu_library: CpuLibrary,
    seed: int,
    shapes: list[tuple[int, int]],
    sizes: tuple[int, int, int, int, int],
    box: bool,
    spread: float,
) -> None:
    with np.errstate(over="ignore"):
        case = make_case(seed, tuple(shapes), sizes=sizes, box=box, spread=spread)
    for isa in isas(cpu_library, sizes[3]):
        out = cpu_library.deformable_attention(case.value, case.shapes, case.merged, case.reference, isa=isa)
        # Values are about 1, weights sum to 1, and the error of a location is a few 1e-7 of 30 cells.
        np.testing.assert_allclose(out, case.expected(), rtol=1e-4, atol=2e-5)


@given(
    seed=st.integers(0, 2**32 - 1),
    poison=st.sampled_from([np.nan, np.inf, -np.inf, 3e38, -3e38, 0.0]),
    target=st.sampled_from(["value", "offset", "logit", "reference"]),
    box=st.booleans(),
    points=st.integers(1, 4),
)
def test_hostile_numbers_do_as_in_the_reference(
    cpu_library: CpuLibrary, seed: int, poison: float, target: str, box: bool, points: int
) -> None:
    case = make_case(seed, sizes=(1, 6, 2, 16, points), box=box)
    rng = np.random.default_rng(seed)
    first_logit = 2 * 2 * len(SHAPES) * points
    array = {
        "value": case.value,
        "offset": case.merged[..., :first_logit],
        "logit": case.merged[..., first_logit:],
        "reference": case.reference,
    }[target]
    for _ in range(rng.integers(1, 9)):
        array[tuple(rng.integers(0, size) for size in array.shape)] = poison
    for isa in isas(cpu_library, 16):
        out = cpu_library.deformable_attention(case.value, SHAPES, case.merged, case.reference, isa=isa)
        expected = case.expected()
        if abs(poison) > 1e38 and target == "value":
            # Sums near the largest float may overflow in one of the two.
            expected = np.where(np.abs(expected) < 1e37, expected, out)
        np.testing.assert_allclose(out, expected, rtol=1e-4, atol=2e-5)


def test_all_logits_minus_infinity_give_nan(cpu_library: CpuLibrary) -> None:
    case = make_case(8)
    case.merged[0, 3, 2 * 8 * 16 :] = -np.inf
    out = cpu_library.deformable_attention(case.value, SHAPES, case.merged, case.reference)
    assert np.isnan(out[0, 3]).all()
    assert np.isfinite(np.delete(out, 3, 1)).all()


@pytest.mark.parametrize("weight", [np.nan, np.inf])
def test_a_weight_that_is_not_finite_shows_even_outside(cpu_library: CpuLibrary, weight: float) -> None:
    value = np.ones((1, 1, 1, 16), np.float32)
    locations = np.full((1, 1, 1, 1, 1, 2), 9.0, np.float32)
    weights = np.full((1, 1, 1, 1, 1), weight, np.float32)
    for isa in isas(cpu_library, 16):
        assert np.isnan(cpu_library.ms_deform_attn(value, ((1, 1),), locations, weights, isa=isa)).all()


def test_no_queries_and_no_images(cpu_library: CpuLibrary) -> None:
    for sizes in ((1, 0, 8, 32, 4), (0, 5, 8, 32, 4)):
        case = make_case(0, sizes=sizes)
        out = cpu_library.deformable_attention(case.value, SHAPES, case.merged, case.reference)
        assert out.shape == (*sizes[:2], 256)


def test_refuses_what_it_cannot_do(cpu_library: CpuLibrary) -> None:
    case = make_case(9)
    good = case.value, SHAPES, case.merged, case.reference
    with pytest.raises(PluginError, match="got sizes that do not fit"):
        cpu_library.deformable_attention(case.value[:, 1:], *good[1:])
    with pytest.raises(PluginError, match="got sizes that do not fit"):
        cpu_library.deformable_attention(case.value, ((0, 4), *SHAPES[1:]), *good[2:])
    with pytest.raises(PluginError, match="got sizes that do not fit"):
        cpu_library.deformable_attention(*good[:3], case.reference[..., :1])
    with pytest.raises(PluginError, match="got sizes that do not fit"):
        cpu_library.deformable_attention(*good[:2], case.merged[..., 1:], case.reference)
    with pytest.raises(PluginError, match="types"):
        cpu_library.deformable_attention(case.value.astype(np.float64), *good[1:])
    with pytest.raises(PluginError, match="types"):
        cpu_library.deformable_attention(*good[:2], case.merged.astype(np.float16), case.reference)
    with pytest.raises(PluginError, match="instructions"):
        cpu_library.deformable_attention(case.value[..., :3].copy(), *good[1:], isa=Isa.VEC128)


@pytest.mark.parametrize("isa", Isa)
@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("box", [False, True])
@pytest.mark.parametrize("seed", [1, 2], ids=["shared", "own"])
def test_gradients_equal_the_reference(
    cpu_library: CpuLibrary,
    relative_error: Callable[..., float],
    smooth: Callable[..., Array],
    isa: Isa,
    dtype: str,
    box: bool,
    seed: int,
) -> None:
    case = cast(make_case(seed, box=box), dtype)
    grad = case.grad() * smooth(SHAPES, case.merged, case.reference, 8)[..., None].astype(case.value.dtype)
    with needs(cpu_library, isa, 32):
        found = cpu_library.deformable_attention_backward(
            grad, case.value, SHAPES, case.merged, case.reference, isa=isa, threads=2
        )
    for gradient, expected in zip(found, case.expected_gradients(grad), strict=True):
        assert gradient.dtype == np.float32
        # Given the same rounded inputs: gradients are fp32 for every type of values.
        assert relative_error(gradient, expected) <= 1e-5


@pytest.mark.parametrize("width", [1, 3, 4, 8, 16, 24, 32, 48, 64, 96])
def test_gradients_of_every_width_and_instruction_set(
    cpu_library: CpuLibrary, relative_error: Callable[..., float], width: int
) -> None:
    case = make_case(5, sizes=(1, 9, 3, width, 2))
    expected = case.expected_gradients(case.grad())
    for isa in (Isa.AUTO, *isas(cpu_library, width)):
        found = cpu_library.deformable_attention_backward(
            case.grad(), case.value, SHAPES, case.merged, case.reference, isa=isa
        )
        assert max(map(relative_error, found, expected)) <= 1e-5, isa.name


@pytest.mark.parametrize("box", [False, True])
def test_gradients_do_not_depend_on_the_threads(
    cpu_library: CpuLibrary, relative_error: Callable[..., float], smooth: Callable[..., Array], box: bool
) -> None:
    shapes = ((17, 11), (9, 6), (5, 3), (1, 2))
    case = make_case(
        6 + box, shapes, sizes=(2, 258, 3, 8, 4), box=box
    )  # as in an encoder: one query per token
    grad = case.grad() * smooth(shapes, case.merged, case.reference, 3)[..., None]
    found = [
        cpu_library.deformable_attention_backward(
            grad, case.value, shapes, case.merged, case.reference, threads=threads
        )
        for threads in (1, 2, 3, 5, 64)
    ]
    assert max(map(relative_error, found[0], case.expected_gradients(grad))) <= 1e-5
    for others in found[1:]:
        assert all(map(np.array_equal, others, found[0]))


@given(
    seed=st.integers(0, 2**32 - 1),
    shapes=st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=5),
    sizes=st.tuples(*(st.integers(low, high) for low, high in ((1, 2), (0, 6), (1, 3), (1, 33), (1, 5)))),
    box=st.booleans(),
    spread=st.sampled_from([0.1, 1.0, 30.0, 1e9]),
)
def test_gradients_of_any_sizes_and_reach(
    cpu_library: CpuLibrary,
    smooth: Callable[..., Array],
    seed: int,
    shapes: list[tuple[int, int]],
    sizes: tuple[int, int, int, int, int],
    box: bool,
    spread: float,
) -> None:
    case = make_case(seed, tuple(shapes), sizes=sizes, box=box, spread=spread)
    grad = case.grad(seed) * smooth(case.shapes, case.merged, case.reference, sizes[2])[..., None]
    expected = case.expected_gradients(grad)
    for isa in isas(cpu_library, sizes[3]):
        found = cpu_library.deformable_attention_backward(
            grad, case.value, case.shapes, case.merged, case.reference, isa=isa
        )
        for gradient, right in zip(found, expected, strict=True):
            # A box's side moves a sample by its offset, in cells: up to 100 of those here.
            np.testing.assert_allclose(
                gradient, right, rtol=1e-4, atol=2e-5 * max(1, np.abs(right).max(initial=0))
            )


@given(
    seed=st.integers(0, 2**32 - 1),
    poison=st.sampled_from([np.nan, np.inf, -np.inf, 3e38, -3e38]),
    target=st.sampled_from(["offset", "logit", "reference", "grad"]),
    box=st.booleans(),
    points=st.integers(1, 4),
)
def test_hostile_numbers_spoil_no_other_query(
    cpu_library: CpuLibrary, seed: int, poison: float, target: str, box: bool, points: int
) -> None:
    case = make_case(2 * (seed // 2), sizes=(1, 6, 2, 16, points), box=box)
    first_logit, grad = 2 * 2 * len(SHAPES) * points, case.grad(seed)
    clean = [grad.copy(), case.merged.copy(), case.reference.copy()]
    array = {
        "offset": case.merged[..., :first_logit],
        "logit": case.merged[..., first_logit:],
        "reference": case.reference,
        "grad": grad,
    }[target]
    rng = np.random.default_rng(seed)
    queries = rng.choice(6, 2, replace=False)
    for query in queries:
        array[(0, query, *(rng.integers(0, size) for size in array.shape[2:]))] = poison
    others = np.setdiff1d(np.arange(6), queries)
    for isa in isas(cpu_library, 16):
        found, expected = (
            cpu_library.deformable_attention_backward(g, case.value, SHAPES, merged, reference, isa=isa)
            for g, merged, reference in ((grad, case.merged, case.reference), clean)
        )
        for i in (1, 2):
            np.testing.assert_array_equal(found[i][:, others], expected[i][:, others])
        if target == "offset":
            assert all(np.isfinite(gradient).all() for gradient in found)
        if target == "logit" and poison in (np.nan, np.inf):
            assert all(np.isnan(found[1][0, query]).any() for query in queries)


def test_gradients_of_no_query_are_zero(cpu_library: CpuLibrary) -> None:
    for sizes in ((2, 0, 8, 32, 4), (0, 5, 8, 32, 4)):
        case = make_case(1, sizes=sizes)
        found = cpu_library.deformable_attention_backward(
            case.grad(), case.value, SHAPES, case.merged, case.reference
        )
        assert [gradient.shape for gradient in found] == [
            array.shape for array in (case.value, case.merged, case.reference)
        ]
        assert not any(gradient.any() for gradient in found)


def test_gradients_refuse_what_they_cannot_do(cpu_library: CpuLibrary) -> None:
    case = make_case(9)
    good = case.value, SHAPES, case.merged, case.reference
    with pytest.raises(PluginError, match="got sizes that do not fit"):
        cpu_library.deformable_attention_backward(case.grad()[:, 1:], *good)
    with pytest.raises(PluginError, match="got sizes that do not fit"):
        cpu_library.deformable_attention_backward(case.grad(), case.value[:, 1:], *good[1:])
    with pytest.raises(PluginError, match="types"):
        cpu_library.deformable_attention_backward(case.grad().astype(np.float16), *good)
    narrow = case.value[..., :3]
    with pytest.raises(PluginError, match="instructions"):
        cpu_library.deformable_attention_backward(case.grad()[..., :24], narrow, *good[1:], isa=Isa.VEC128)


def test_a_library_that_is_none_is_refused(tmp_path: Path) -> None:
    broken = tmp_path / "libidol_deform_attn_cpu.so"
    broken.write_bytes(b"nothing")
    with pytest.raises(PluginError, match="build it again: idol-deploy plugins build"):
        CpuLibrary(broken)
