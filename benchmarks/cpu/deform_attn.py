"""How much faster the deformable attention's kernel is than torch's grid_sample form.

An encoder call of the network at 360x640 and 720x1280 (padded to multiples of 32), fp32, in turns: torch's
`deformable_attention`, then the kernel. Offsets are those of a fresh network, plus noise.

    idol-deploy plugins build
    python -m benchmarks.cpu.deform_attn [--threads 2] [--json OUT]

Ratios are of medians; `best` are of the least times, which other work on the machine disturbs least. Exits with 1
when a ratio of an encoder call is below 20 or an answer is wrong.
"""

import argparse
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks.machine import machine_facts, tell_report
from idol_deploy.config import ytvis19_r50
from idol_deploy.model.deform_attn import DeformableAttention, Shapes, deformable_attention
from idol_deploy.model.geometry import build_geometry
from idol_export.verify.parity import relative_error
from idol_plugins.cpu import CpuLibrary, Isa

SIZES = ((384, 640), (736, 1280))
GOAL = 20.0
# Two fp32 orders of summation, and locations that torch rounds once more often.
TOLERANCE = 1e-5


@dataclass(frozen=True)
class Race:
    """Two ways to one answer, timed in turns."""

    what: str
    slow_ms: float
    fast_ms: float
    ratio: float
    best_ratio: float
    relative_error: float


def race(
    what: str, slow: Callable[[], object], fast: Callable[[], object], rounds: int, error: float
) -> Race:
    """Median and least times of each; the fast one runs three times a round, for as steady a median."""
    times: Mapping[str, list[float]] = {"slow": [], "fast": []}
    for _ in range(rounds):
        for name, run, count in (("slow", slow, 1), ("fast", fast, 3)):
            for _ in range(count):
                start = time.perf_counter()
                run()
                times[name].append((time.perf_counter() - start) * 1e3)
    a, b = (float(np.median(times[name])) for name in ("slow", "fast"))
    best = min(times["slow"]) / min(times["fast"])
    return Race(what, round(a, 2), round(b, 2), round(a / b, 2), round(best, 2), error)


def encoder_call(size: tuple[int, int]) -> tuple[Tensor, Shapes, Tensor, Tensor]:
    """Arguments of `deformable_attention` in an encoder layer."""
    config = ytvis19_r50().model
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
def op_race(size: tuple[int, int], threads: int, rounds: int, library: CpuLibrary) -> Race:
    """One encoder call."""
    value, shapes, merged, reference = encoder_call(size)
    arrays = value.numpy(), shapes, merged.numpy(), reference.numpy()
    expected = deformable_attention(value, shapes, merged, reference).numpy()
    return race(
        f"encoder call at {size[0]}x{size[1]}: torch grid_sample / kernel",
        lambda: deformable_attention(value, shapes, merged, reference),
        lambda: library.deformable_attention(*arrays, threads=threads),
        rounds,
        relative_error(library.deformable_attention(*arrays, threads=threads), expected),
    )


def report(races: Sequence[Race], passed: bool, threads: int, out: Path | None) -> int:
    """Prints, writes where a file is given, and returns the exit status."""
    library = CpuLibrary()
    found = {
        "machine": machine_facts(),
        "torch": torch.__version__,
        "threads": threads,
        "instructions": [isa.name for isa in Isa if library.offers(isa)],
        "passed": passed,
        "races": [asdict(each) for each in races],
    }
    return tell_report(found, out)


def main() -> int:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--json", type=Path, metavar="OUT")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    library = CpuLibrary()
    races = [op_race(size, args.threads, args.rounds, library) for size in SIZES]
    passed = all(found.ratio >= GOAL and found.relative_error <= TOLERANCE for found in races)
    return report(races, passed, args.threads, args.json)


if __name__ == "__main__":
    sys.exit(main())
