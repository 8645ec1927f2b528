"""What the sections of the GPU benchmark share: options, progress, timing, and the facts of the device."""

import importlib.metadata
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

__all__ = ["Options", "Report", "Save", "device_facts", "say", "spread", "time_ms", "time_us", "turns"]

Report: TypeAlias = dict[str, Any]
# Keeps what the report holds so far: a section that is cut off leaves what it has.
Save: TypeAlias = Callable[[], None]

MEASURED_S = 0.4  # at most, of one timing


@dataclass(frozen=True)
class Options:
    """How to run a section.

    Attributes:
        device: `cuda`, or `cpu` for a dry run.
        quick: small sizes, few repetitions, no code generation.
        repeats: timed repetitions.
    """

    device: str
    quick: bool
    repeats: int


def say(text: str) -> None:
    """Progress, to stderr."""
    print(text, file=sys.stderr, flush=True)


def spread(values: Sequence[float], digits: int = 3) -> Report:
    """Median, 10th and 90th percentile."""
    low, middle, high = (float(np.percentile(values, share)) for share in (10, 50, 90))
    return {"median": round(middle, digits), "p10": round(low, digits), "p90": round(high, digits)}


def time_ms(call: Callable[[], object], device: str) -> float:
    """Milliseconds of one call, what the host does included: by CUDA events on a GPU, by the clock elsewhere."""
    if device != "cuda":
        return _clock_us([call]) / 1e3
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call, unused-ignore]
    begin.record()
    call()
    end.record()
    end.synchronize()
    return float(begin.elapsed_time(end))


def turns(calls: Mapping[str, Callable[[], object]], options: Options) -> dict[str, Report]:
    """Milliseconds of each, the calls taking turns, after a few to warm up."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(-min(3, options.repeats), options.repeats):
        for name, call in calls.items():
            taken = time_ms(call, options.device)
            if turn >= 0:
                times[name].append(taken)
    return {name: spread(taken) for name, taken in times.items()}


def time_us(calls: Sequence[Callable[[], object]], options: Options) -> Report:
    """Microseconds of a call, the calls taking turns: replays of one CUDA graph of them all; the clock on a CPU."""
    if options.device != "cuda":
        return spread([_clock_us(calls) for _ in range(options.repeats)])
    aside = torch.cuda.Stream()  # type: ignore[no-untyped-call, unused-ignore]
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):
        for call in calls:  # loads modules, fills caches of the allocator
            call()
    torch.cuda.current_stream().wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for call in calls:
            call()
    times: list[float] = []
    graph.replay()
    torch.cuda.synchronize()
    while len(times) < options.repeats or (
        sum(times) < MEASURED_S * 1e3 and len(times) < 4 * options.repeats
    ):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call, unused-ignore]
        begin.record()
        graph.replay()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end))
    return spread([1e3 * taken / len(calls) for taken in times])


def _clock_us(calls: Sequence[Callable[[], object]]) -> float:
    start = time.perf_counter()
    for call in calls:
        call()
    return (time.perf_counter() - start) * 1e6 / len(calls)


def device_facts(device: str) -> Report:
    """The accelerator and the software that drives it."""
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
    facts["driver"] = _first_line(
        "nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader", "--id=0"
    )
    facts["nvcc"] = _last_line(os.environ.get("CUDACXX", "nvcc"), "--version")
    return facts


def _first_line(*command: str) -> str | None:
    return _lines(command)[0]


def _last_line(*command: str) -> str | None:
    return _lines(command)[-1]


def _lines(command: Sequence[str]) -> Sequence[str | None]:
    if shutil.which(command[0]) is None:
        return [None]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip().splitlines() or [None]
