"""Throughput and latency of batches and of parallel sessions.

    batches    batches of 1, 2, 4 and 8 frames in one session, interleaved: milliseconds per batch, frames per second
    sessions   the same frames in one session with all threads, one by one and in one batch; and in as many sessions
               as threads, each with one thread and its share of the frames

    idol-deploy plugins build
    python -m benchmarks.cpu.batches [--bundle FILE] [--threads 2] [--rounds 15] [--sizes 1,2,4,8] [--json OUT]

The network is that of a bundle exported with --dynamic-batch, or edge_synth at 160x256 with reference weights and the
compiled operator. Exits with 1 if the outputs of a batch differ from those of single frames by more than the golden
frame's tolerance.
"""

import argparse
import importlib.metadata
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from benchmarks.machine import machine_facts, report_result
from idol_plugins.ort import ort_library
from idol_runtime.backends import Backend, OpenOptions, open_backend
from idol_runtime.backends.onnxruntime import OnnxRuntimeBackend, open_session
from idol_runtime.bundle.bundle import OUTPUT_NAMES, Bundle
from idol_runtime.pipeline import GOLDEN_TOLERANCE
from idol_runtime.timing import interleaved, paired_ratio, summarise
from idol_runtime.tracking.detection import NetworkOutput

PRESET, SIZE = "edge_synth", (160, 256)

Open: TypeAlias = Callable[[int], Backend]  # takes the number of threads


def bundle_network(path: Path, graph: str) -> tuple[Open, str]:
    """Return a function that opens a bundle's network, and the network's description."""
    with Bundle.open(path) as bundle:
        manifest = bundle.manifest
        if not manifest.dynamic_batch:
            sys.exit(f"fixed batch size of 1: {path}; export it with --dynamic-batch")

    def opened(threads: int) -> Backend:
        with Bundle.open(path) as bundle:
            return open_backend(bundle, OpenOptions("onnxruntime", "cpu", threads, graph))

    return opened, f"{manifest.preset}, {graph} graph"


def preset_network() -> tuple[Open, str]:
    """Export the edge network and return the same for it."""
    from idol_deploy.config import preset
    from idol_deploy.weights.reference import reference_model
    from idol_export.graph.adapter import ExportGraph
    from idol_export.graph.operator import fused_node, with_core
    from idol_export.graph.tracing import probe_to_onnx, shipped

    model = with_core(reference_model(preset(PRESET)), fused_node)
    graph = shipped(probe_to_onnx(ExportGraph(model, SIZE), dynamic_batch=True))

    def opened(threads: int) -> Backend:
        session = open_session(graph, threads=threads, libraries=[ort_library()])
        return OnnxRuntimeBackend(session, "onnxruntime (cpu)", SIZE)

    return opened, f"{PRESET} with reference weights, plugin graph"


def frames(count: int, size: tuple[int, int]) -> NDArray[np.uint8]:
    """Return different frames of smooth noise, [count, h, w, 3]."""
    coarse = np.random.default_rng(0).integers(0, 256, (count, size[0] // 8, size[1] // 8, 3), dtype=np.uint8)
    return np.ascontiguousarray(coarse.repeat(8, axis=1).repeat(8, axis=2))


def difference(together: Sequence[NetworkOutput], alone: Sequence[NetworkOutput]) -> float:
    """Return the largest relative error of any output."""
    return max(
        float(
            np.linalg.norm(getattr(a, name) - getattr(b, name)) / max(np.linalg.norm(getattr(b, name)), 1e-12)
        )
        for a, b in zip(together, alone, strict=True)
        for name in OUTPUT_NAMES
    )


def batches(backend: Backend, images: NDArray[np.uint8], sizes: Sequence[int], rounds: int) -> dict[str, Any]:
    """Measure latency and throughput of each batch size, and the speed-up over single frames."""
    counts = sorted({1, *sizes})
    times = interleaved([partial(backend.infer, images[:count]) for count in counts], rounds).T
    return {
        str(count): {
            "latency_ms": summarise(milliseconds),
            "frames_per_s": round(1e3 * count / float(np.median(milliseconds)), 2),
            "times_one": paired_ratio(times[0], milliseconds / count),
        }
        for count, milliseconds in zip(counts, times, strict=True)
    }


def sessions(opened: Open, images: NDArray[np.uint8], threads: int, rounds: int) -> dict[str, Any]:
    """Measure one session with all threads against one session per thread."""
    one, many = opened(threads), [opened(1) for _ in range(threads)]
    with ThreadPoolExecutor(threads) as pool:

        def one_by_one(backend: Backend, share: NDArray[np.uint8]) -> None:
            for image in share:
                backend.infer(image[None])

        configurations: dict[str, Callable[[], object]] = {
            f"1 session of {threads} threads, one by one": lambda: one_by_one(one, images),
            f"1 session of {threads} threads, one batch": lambda: one.infer(images),
            f"{threads} sessions of 1 thread, one by one": lambda: list(
                pool.map(one_by_one, many, np.array_split(images, threads))
            ),
        }
        times = interleaved(list(configurations.values()), rounds).T
    return {
        name: {
            "ms": summarise(milliseconds),
            "frames_per_s": round(1e3 * len(images) / float(np.median(milliseconds)), 2),
            "times_first": paired_ratio(times[0], milliseconds),
        }
        for name, milliseconds in zip(configurations, times, strict=True)
    }


def main() -> int:
    """Measure, print and write the results, and return the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--bundle", type=Path, metavar="FILE", help="bundle exported with --dynamic-batch")
    parser.add_argument("--graph", default="plugin", help="graph of the bundle (default: plugin)")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--sizes", default="1,2,4,8", help="batch sizes (default: 1,2,4,8)")
    parser.add_argument("--json", type=Path, metavar="OUT")
    args = parser.parse_args()
    sizes = sorted({int(size) for size in args.sizes.split(",")})
    opened, network = preset_network() if args.bundle is None else bundle_network(args.bundle, args.graph)
    backend = opened(args.threads)
    size = backend.network_size or SIZE
    images = frames(max(sizes), size)
    error = difference(backend.infer(images), [backend.infer(image[None])[0] for image in images])
    report = {
        "machine": machine_facts(),
        "versions": {"onnxruntime": importlib.metadata.version("onnxruntime")},
        "network": network,
        "size": "x".join(map(str, size)),
        "threads": args.threads,
        "rounds": args.rounds,
        "error_in_a_batch": float(f"{error:.2g}"),
        "passed": error <= GOLDEN_TOLERANCE,
        "batches": batches(backend, images, sizes, args.rounds),
        "sessions": sessions(opened, images, args.threads, args.rounds),
    }
    return report_result(report, args.json)


if __name__ == "__main__":
    sys.exit(main())
