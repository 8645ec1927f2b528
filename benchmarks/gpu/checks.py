"""Checks of every kernel on a device against the numpy reference implementation in float64 on the same rounded inputs.

The output must have NaN and infinities where the reference has them, and the same numbers elsewhere. It is filled with
NaN before each run.
"""

from collections.abc import Callable, Iterator, Mapping
from functools import cache, partial
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

from benchmarks.gpu.attention import TYPES, Call, array_of, libraries_of, raw_call, run_fused
from benchmarks.gpu.common import Options, Report, Save
from idol_deploy.model.deform_attn import Shapes
from idol_plugins import reference as numpy_reference
from idol_plugins.cuda import CudaLibrary

__all__ = ["TOLERANCES", "check_libraries", "disagreement", "run", "short"]

Size: TypeAlias = tuple[int, int, int, Shapes]  # heads, width, points, maps
Numbers: TypeAlias = tuple[Tensor, Shapes, Tensor, Tensor, Tensor]  # value, maps, offsets, logits, reference

# Relative, in the Euclidean norm: sums are fp32; rounding the output costs 2e-4 in fp16 and 2e-3 in bfloat16.
TOLERANCES = {torch.float32: 1e-5, torch.float16: 1e-3, torch.bfloat16: 1e-2}
SHAPES = ((19, 24), (10, 12), (5, 6), (1, 1))
# The sizes that the kernel is optimised for come first.
SIZES: tuple[Size, ...] = (
    (8, 32, 4, SHAPES),
    (8, 32, 4, ((12, 20), (6, 10), (3, 5), (2, 3))),
    (1, 32, 4, SHAPES),
    (3, 32, 4, SHAPES),
    (4, 32, 3, SHAPES[:3]),
    (8, 16, 4, SHAPES),
    (2, 5, 1, ((7, 3),)),
    (5, 64, 8, ((1, 1), (1, 9), (9, 1))),
    (8, 32, 4, ((4, 4),) * 6),
)
HOSTILE = (float("nan"), float("inf"), -float("inf"), 3e38, -6e4)


def disagreement(output: np.ndarray, expected: np.ndarray) -> float:
    """Return the relative error of the numbers; infinity if NaN or infinities are in other places."""
    if output.shape != expected.shape:
        return float("inf")
    finite = np.isfinite(expected)
    if (
        not np.array_equal(output[~finite], expected[~finite], equal_nan=True)
        or not np.isfinite(output[finite]).all()
    ):
        return float("inf")
    norm = np.linalg.norm(expected[finite])
    return float(np.linalg.norm(output[finite] - expected[finite]) / norm) if norm else 0.0


def draw(size: Size, images: int, queries: int, box: bool, shared: bool, seed: int) -> Numbers:
    """Return the numbers of a random call, some of whose locations are outside the maps."""
    M, D, P, shapes = size
    L, S = len(shapes), sum(h * w for h, w in shapes)
    random = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=random)

    reference = 1.2 * torch.rand(1 if shared else images, queries, L, 4 if box else 2, generator=random) - 0.1
    offsets = 3 * normal(images, queries, M, L, P, 2)
    return normal(images, S, M, D), shapes, offsets, 2 * normal(images, queries, M, L * P), reference


def edges(seed: int) -> Numbers:
    """Return a call with points exactly on and next to the centres and edges of cells."""
    value, shapes, offsets, logits, reference = draw(SIZES[0], 1, 257, box=False, shared=True, seed=seed)
    h, w = shapes[0]
    grid = torch.tensor([-1.0, -0.5, 0.0, 0.5, 1.0, 2.0])
    random = torch.Generator().manual_seed(seed)
    cells = grid[torch.randint(len(grid), offsets.shape, generator=random)]
    nudged = cells + 1e-6 * torch.randint(-1, 2, offsets.shape, generator=random)
    corners = torch.tensor([0.0, 0.5, 1.0])[torch.randint(3, reference.shape, generator=random)]
    reference = corners + 0.5 / torch.tensor([w, h])
    return value, shapes, nudged, logits, reference


def hostile(poison: float, where: str, seed: int) -> Numbers:
    """Return a call with 40 copies of a hostile number in one of its arrays."""
    numbers = draw(SIZES[0], 2, 65, box=seed % 2 == 1, shared=False, seed=seed)
    value, _, offsets, logits, reference = numbers
    target = {"value": value, "offsets": offsets, "logits": logits, "reference": reference}[where].view(-1)
    random = torch.Generator().manual_seed(seed)
    target[torch.randint(len(target), (40,), generator=random)] = poison
    return numbers


def cases(quick: bool) -> Iterator[tuple[str, Numbers, tuple[torch.dtype, ...]]]:
    """Yield name, numbers and types of each fused call."""
    seed = 0
    for size in SIZES:
        M, D, P, shapes = size
        for types in TYPES:
            for box, shared in ((False, True), (True, False)):
                seed += 1
                name = f"{M}x{D}, {len(shapes)} levels, {P} points, {'boxes' if box else 'points'}"
                yield name, draw(size, 2, 37 if quick else 301, box, shared, seed), types
    for types in TYPES:
        yield "edges of cells", edges(7), types
        for queries in (0, 1):
            yield f"{queries} queries", draw(SIZES[0], 2, queries, box=False, shared=False, seed=3), types
    # As many queries as tokens, as in the encoder.
    for size in SIZES[:2]:
        for types in TYPES:
            tokens = sum(h * w for h, w in size[3])
            yield (
                f"{tokens} queries of as many tokens",
                draw(size, 2, tokens, box=False, shared=True, seed=5),
                types,
            )
    for seed, poison in enumerate(HOSTILE):
        for where in ("logits", "offsets", "reference", "value"):
            yield f"{poison:g} among the {where}", hostile(poison, where, seed), TYPES[0]
    value, shapes, offsets, logits, reference = draw(SIZES[0], 1, 33, box=False, shared=True, seed=9)
    yield "far outside", (value, shapes, 1e9 * offsets, logits, reference), TYPES[0]


def expected_of(call: Call) -> np.ndarray:
    """Return the reference output in float64, with infinity beyond the range of the value's type."""
    offsets, logits = (tensor.double().cpu().numpy() for tensor in call.split())
    value, reference = (tensor.double().cpu().numpy() for tensor in (call.value, call.reference))
    if not offsets.size:
        return np.zeros(call.empty_out().shape)
    with np.errstate(all="ignore"):
        out = numpy_reference.deformable_attention(value, call.shapes, offsets, logits, reference)
        return np.where(np.abs(out) > torch.finfo(call.value.dtype).max, np.inf * np.sign(out), out)


def check_fused(library: CudaLibrary, call: Call, expected: np.ndarray) -> float:
    """Return the disagreement of the fused form with the expected output."""
    out = call.empty_out()
    run_fused(library, call, out)
    return disagreement(out.double().cpu().numpy(), expected)


@cache
def classic_case(
    dtype: torch.dtype, size: Size, hostile: bool
) -> tuple[Tensor, Shapes, Tensor, Tensor, np.ndarray]:
    """Return value, maps, locations and weights of a classic call, and the expected output."""
    value, shapes, offsets, logits, _ = draw(size, 2, 67, box=False, shared=False, seed=11)
    locations = 0.5 + 0.3 * offsets / 3
    weights = logits.reshape(offsets.shape[:-1]).softmax(-1)
    if hostile:
        for target in (locations, weights):
            for step, poison in enumerate(HOSTILE[:3]):
                target.view(-1)[step + 5 :: 997] = poison
    value = value.to(dtype)
    with np.errstate(all="ignore"):
        expected = numpy_reference.ms_deform_attn(
            value.double().numpy(), shapes, locations.double().numpy(), weights.double().numpy()
        )
    return value, shapes, locations, weights, expected


def check_classic(library: CudaLibrary, dtype: torch.dtype, size: Size, hostile: bool, device: str) -> float:
    """Return the disagreement of the form that takes locations and weights."""
    value, shapes, locations, weights, expected = classic_case(dtype, size, hostile)
    inputs = [tensor.to(device).contiguous() for tensor in (value, locations, weights)]
    out = inputs[0].new_full(expected.shape, float("nan"))
    of_value, of_locations, of_weights, of_out = map(array_of, (*inputs, out))
    stream = torch.cuda.current_stream().cuda_stream if device == "cuda" else 0
    library.ms_deform_attn(of_value, shapes, of_locations, of_weights, of_out, stream)
    return disagreement(out.double().cpu().numpy(), expected)


def record(report: Report, name: str, error: Callable[[], float], tolerance: float) -> None:
    """Run one check and add it to the report."""
    try:
        result: float | str = error()
    except Exception as reason:  # noqa: BLE001 - a case that raises is a failed check
        result = f"{type(reason).__name__}: {reason}"[:300]
    report["checks"] += 1
    if isinstance(result, float):
        report["worst_share_of_tolerance"] = round(
            max(report["worst_share_of_tolerance"], result / tolerance), 4
        )
    if not isinstance(result, float) or not result <= tolerance:
        report["failed"].append({"case": name, "error": str(result), "tolerance": tolerance})


def check_libraries(libraries: Mapping[str, CudaLibrary], options: Options) -> Report:
    """Check all cases with each library; report the largest error as a share of its tolerance, and the failures."""
    reports: dict[str, Report] = {
        name: {"checks": 0, "worst_share_of_tolerance": 0.0, "failed": []} for name in libraries
    }

    def check(name: str, width: int, error: Callable[[CudaLibrary], float], tolerance: float) -> None:
        # Heads of another width have one kernel.
        for library in libraries if width == 32 else list(libraries)[:1]:
            record(reports[library], name, partial(error, libraries[library]), tolerance)

    for name, numbers, types in cases(options.quick):
        call = raw_call(*numbers, types)
        sent = Call(
            *(call.value.to(options.device), call.shapes, call.merged.to(options.device)),
            *(call.reference.to(options.device), call.points),
        )
        full = f"{name}, {short(call.value.dtype)} of {short(call.merged.dtype)}"
        error = partial(check_fused, call=sent, expected=expected_of(call))
        check(full, call.value.shape[3], error, TOLERANCES[call.value.dtype])
    for dtype, tolerance in TOLERANCES.items():
        for size in SIZES:
            for wild in (False, True):
                name = f"classic, {size[0]}x{size[1]}, {short(dtype)}{', hostile' if wild else ''}"
                error = partial(check_classic, dtype=dtype, size=size, hostile=wild, device=options.device)
                check(name, size[1], error, tolerance)
    return {
        "checks": sum(report["checks"] for report in reports.values()),
        "failed": [{"kernel": name, **case} for name, report in reports.items() for case in report["failed"]],
        "kernels": reports,
        "passed": not any(report["failed"] for report in reports.values()),
    }


def short(dtype: torch.dtype) -> str:
    """Return a type's name without `torch.`."""
    return str(dtype).removeprefix("torch.")


def run(options: Options, report: Report, save: Save) -> None:
    """Check every kernel of the library."""
    report.update(check_libraries(libraries_of(options.device), options))
    save()
