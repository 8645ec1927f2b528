"""Options, timing and device facts that the sections of the GPU benchmark share."""

import importlib.metadata
import importlib.util
import math
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch

from benchmarks.machine import machine_facts

__all__ = [
    "Options",
    "Report",
    "Save",
    "capture",
    "copy_speed",
    "device_facts",
    "interleaved_ms",
    "missing",
    "percentiles",
    "repeated_ms",
    "say",
    "time_us",
]

Report: TypeAlias = dict[str, Any]
# Writes the unfinished report, so that the results of an interrupted section are not lost.
Save: TypeAlias = Callable[[], None]

MEASURED_S = 0.4  # after the requested repetitions, a measurement continues up to this time


@dataclass(frozen=True)
class Options:
    """Options of a section.

    Attributes:
        device: `cuda`, or `cpu` for a dry run.
        quick: small sizes, few repetitions, no code generation.
        repeats: number of timed repetitions.
        deadline: value of `time.monotonic()` at which the section is stopped.
    """

    device: str
    quick: bool
    repeats: int
    deadline: float = math.inf

    @property
    def left_s(self) -> float:
        """Number of seconds until the deadline."""
        return self.deadline - time.monotonic()


def say(text: str) -> None:
    """Print progress to stderr."""
    print(text, file=sys.stderr, flush=True)


def missing(*modules: str) -> str | None:
    """Explain which of these modules are not installed; None if all are."""
    names = [module for module in modules if importlib.util.find_spec(module) is None]
    if not names:
        return None
    return f"not installed: {', '.join(names)}; pip install them, or pack them: python -m benchmarks.gpu.pack"


def percentiles(values: Sequence[float]) -> Report:
    """Return the median and the 10th, 90th and 99th percentiles."""
    names = {"median": 50, "p10": 10, "p90": 90, "p99": 99}
    return {name: round(float(np.percentile(values, share)), 3) for name, share in names.items()}


def time_ms(call: Callable[[], object], device: str) -> float:
    """Return the milliseconds of one call, work on the host included; uses CUDA events on a GPU."""
    if device != "cuda":
        return _wall_clock_us([call]) / 1e3
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call, unused-ignore]
    begin.record()
    call()
    end.record()
    end.synchronize()
    return float(begin.elapsed_time(end))


def interleaved_ms(calls: Mapping[str, Callable[[], object]], options: Options) -> dict[str, Report]:
    """Time the calls in turn after a warm-up, and return milliseconds by name."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(-min(3, options.repeats), options.repeats):
        for name, call in calls.items():
            milliseconds = time_ms(call, options.device)
            if turn >= 0:
                times[name].append(milliseconds)
    return {name: percentiles(values) for name, values in times.items()}


def capture(calls: Sequence[Callable[[], Any]]) -> tuple[torch.cuda.CUDAGraph, list[Any]]:
    """Capture one CUDA graph of all calls in turn; return it with the calls' results, which a replay overwrites."""
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call, unused-ignore]
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for call in calls:  # loads modules and fills the allocator's caches
            call()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        results = [call() for call in calls]
    return graph, results


def repeated_ms(call: Callable[[], object], options: Options) -> list[float]:
    """Return the milliseconds of each of many calls after one that is not timed."""
    times: list[float] = []
    call()
    if options.device == "cuda":
        torch.cuda.synchronize()
    while len(times) < options.repeats or (
        sum(times) < MEASURED_S * 1e3 and len(times) < 4 * options.repeats and not options.quick
    ):
        times.append(time_ms(call, options.device))
    return times


def time_us(calls: Sequence[Callable[[], object]], options: Options) -> Report:
    """Return the microseconds per call, from replays of one CUDA graph of all calls in turn.

    On a CPU it uses the wall clock.
    """
    if options.device != "cuda":
        return percentiles([_wall_clock_us(calls) for _ in range(options.repeats)])
    graph, _ = capture(calls)
    return percentiles([1e3 * ms / len(calls) for ms in repeated_ms(graph.replay, options)])


def copy_speed(options: Options) -> float:
    """Return the bytes per second of a large copy, reads and writes counted."""
    count = 2**20 if options.quick else 2**30
    source = torch.empty(count, dtype=torch.uint8, device=options.device).random_(0, 255)
    target = torch.empty_like(source)
    microseconds = time_us([lambda: target.copy_(source)], options)["median"]
    return float(2 * count / microseconds * 1e6)


def _wall_clock_us(calls: Sequence[Callable[[], object]]) -> float:
    start = time.perf_counter()
    for call in calls:
        call()
    return (time.perf_counter() - start) * 1e6 / len(calls)


def device_facts(device: str) -> Report:
    """Return facts of the accelerator and the versions of its software."""
    facts: Report = {**machine_facts(), "torch": torch.__version__, "cuda": torch.version.cuda}
    for package in ("triton", "onnx", "onnxruntime"):
        try:
            facts[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:  # noqa: PERF203
            facts[package] = None
    if device != "cuda":
        return {**facts, "device": "cpu"}
    properties = torch.cuda.get_device_properties(0)
    facts["device"] = properties.name
    facts["capability"] = f"{properties.major}.{properties.minor}"
    facts["multiprocessors"] = properties.multi_processor_count
    facts["l2_mib"] = getattr(properties, "L2_cache_size", 0) / 2**20
    facts["device_memory_gib"] = round(properties.total_memory / 2**30, 1)
    facts["cudnn"] = torch.backends.cudnn.version()  # type: ignore[no-untyped-call, unused-ignore]
    query = ("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader", "--id=0")
    facts["driver"] = _output_lines(*query)[0]
    facts["nvcc"] = _output_lines(os.environ.get("CUDACXX", "nvcc"), "--version")[-1]
    return facts


def _output_lines(*command: str) -> Sequence[str | None]:
    if shutil.which(command[0]) is None:
        return [None]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip().splitlines() or [None]
