"""Speed of the deformable attention's kernel against torch's grid_sample form.

Runs an encoder call of the network at 360x640 and 720x1280 (padded to multiples of 32) in fp32, interleaved: torch's
`deformable_attention` and the kernel. Offsets are those of a freshly initialised network, plus noise.

    idol-deploy plugins build
    python -m benchmarks.cpu.deform_attn [--threads 2] [--json OUT]

`ratio` compares medians; `best_ratio` compares minima, which background load affects least. Exits with 1 if a ratio is
below 20 or an output is wrong.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks.machine import machine_facts, report_result
from idol_deploy.config import preset
from idol_deploy.model.deform_attn import DeformableAttention, Shapes, deformable_attention
from idol_deploy.model.geometry import build_geometry
from idol_export.verify.parity import relative_error
from idol_plugins.cpu import CpuLibrary, Isa
from idol_runtime.timing import interleaved

SIZES = ((384, 640), (736, 1280))
GOAL = 20.0
# fp32 sums in another order, and one more rounding of locations in torch.
TOLERANCE = 1e-5


@dataclass(frozen=True)
class Comparison:
    """Interleaved times of two implementations and the error of the fast one."""

    what: str
    slow_ms: float
    fast_ms: float
    ratio: float
    best_ratio: float
    relative_error: float


def compare(
    what: str, slow: Callable[[], object], fast: Callable[[], object], rounds: int, error: float
) -> Comparison:
    """Time both; the fast one runs three times per round, so that its median is as stable."""
    times = interleaved([slow, fast, fast, fast], rounds, first=0)
    slow_ms, fast_ms = times[:, 0], times[:, 1:]
    a, b = float(np.median(slow_ms)), float(np.median(fast_ms))
    best = float(slow_ms.min() / fast_ms.min())
    return Comparison(what, round(a, 2), round(b, 2), round(a / b, 2), round(best, 2), error)


def encoder_call(size: tuple[int, int]) -> tuple[Tensor, Shapes, Tensor, Tensor]:
    """Return the arguments of `deformable_attention` in an encoder layer."""
    config = preset("ytvis19_r50").model
    geometry = build_geometry(torch.zeros(1, *size, dtype=torch.bool), config.hidden_dim)
    M, L, P = config.heads, config.levels, config.points
    S = geometry.encoder_reference.shape[1]
    random = torch.Generator().manual_seed(0)
    ring = DeformableAttention(config.hidden_dim, L, M, P).sampling_offsets.bias.detach().reshape(M, L, P, 2)
    offsets = ring + 0.5 * torch.randn(1, S, M, L, P, 2, generator=random)
    logits = torch.randn(1, S, M, L * P, generator=random)
    value = torch.randn(1, S, M, config.hidden_dim // M, generator=random)
    merged = torch.cat([offsets.flatten(2), logits.flatten(2)], -1)
    return value, geometry.shapes, merged, geometry.encoder_reference.contiguous()


@torch.inference_mode()
def compare_call(size: tuple[int, int], threads: int, rounds: int, library: CpuLibrary) -> Comparison:
    """Compare torch and the kernel on one encoder call."""
    value, shapes, merged, reference = encoder_call(size)
    arrays = value.numpy(), shapes, merged.numpy(), reference.numpy()
    expected = deformable_attention(value, shapes, merged, reference).numpy()
    return compare(
        f"encoder call at {size[0]}x{size[1]}: torch grid_sample / kernel",
        lambda: deformable_attention(value, shapes, merged, reference),
        lambda: library.deformable_attention(*arrays, threads=threads),
        rounds,
        relative_error(library.deformable_attention(*arrays, threads=threads), expected),
    )


def report(comparisons: Sequence[Comparison], passed: bool, threads: int, out: Path | None) -> int:
    """Print and write the results, and return the exit status."""
    library = CpuLibrary()
    result = {
        "machine": machine_facts(),
        "torch": torch.__version__,
        "threads": threads,
        "instructions": [isa.name for isa in Isa if library.offers(isa)],
        "passed": passed,
        "races": [asdict(comparison) for comparison in comparisons],
    }
    return report_result(result, out)


def main() -> int:
    """Measure, print and write the results, and return the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--json", type=Path, metavar="OUT")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    library = CpuLibrary()
    comparisons = [compare_call(size, args.threads, args.rounds, library) for size in SIZES]
    passed = all(call.ratio >= GOAL and call.relative_error <= TOLERANCE for call in comparisons)
    return report(comparisons, passed, args.threads, args.json)


if __name__ == "__main__":
    sys.exit(main())
