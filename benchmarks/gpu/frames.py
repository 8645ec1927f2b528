"""Latency, memory and outputs of the network on a CUDA device, by precision and implementation.

Runs the published ytvis19_r50 network and the demo model's network, with reference weights: PyTorch eager, with the
compiled operator, and torch.compile. Each runs in fp32, TF32, fp16 and bf16, call by call and as one CUDA graph. The
six outputs of every variant are compared with those of the CPU in fp32.

The most valuable variants run first. Those that do not fit into the section's time are listed under `cut`.

Fails if an fp32 variant exceeds the tolerance, if the norm of another variant's logits or embeddings differs by more
than 10 %, if a graph's outputs differ from the calls', or if a variant raises an error.
"""

import gc
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks.gpu.common import Options, Report, Save, capture, copy_speed, percentiles, repeated_ms, say
from benchmarks.gpu.compiled import compiled
from benchmarks.gpu.network import (
    COMPILED_CASE,
    KINDS,
    NAMES,
    Case,
    Kind,
    Network,
    Outputs,
    compiled_kinds,
    count_cost,
    frames_of,
    model_of,
    prepared,
)
from idol_deploy.model.deform_op import operator_problem
from idol_runtime.bench.roofline import GraphCost, Peaks

__all__ = ["Job", "compare", "jobs", "run", "within_tolerance"]

R50, DEMO = "ytvis19_r50", "edge_synth"
# fp32 sums on a GPU have another order: 1e-6 to 1e-5 after 60 layers. TF32 or a wrong kernel causes far more.
TOLERANCE = 1e-3
MAGNITUDE = 0.1
BASE = "eager fp32"
# Seconds of a variant before one was measured, with autotuning of convolutions; and of one that compiles, with a cache.
NEEDED_S, COMPILE_S = 5.0, 25.0


@dataclass(frozen=True)
class Job:
    """One variant to measure.

    Attributes:
        case: network, size and batch.
        mode: `eager`, `operator`, `compile` or `compile operator`.
        kind: key of `KINDS`.
    """

    case: Case
    mode: str
    kind: str

    @property
    def variant(self) -> str:
        """Mode and precision as text."""
        return f"{self.mode} {self.kind}"


def jobs(quick: bool) -> list[Job]:
    """Return the variants, the most valuable first; `BASE` is the first of its case."""
    compiled_case = COMPILED_CASE[quick]
    if quick:
        cases, batches = [compiled_case], [Case(DEMO, (60, 96), 2)]
    else:
        cases = [compiled_case, Case(DEMO, (240, 384)), Case(R50, (720, 1280))]
        batches = [Case(case.preset, case.size, 4) for case in cases]

    def both(cases: list[Case], kinds: Iterable[str] = KINDS) -> Iterator[Job]:
        return (Job(case, mode, kind) for case in cases for kind in kinds for mode in ("eager", "operator"))

    return [
        *both(cases),
        *(Job(compiled_case, "compile", kind) for kind in compiled_kinds(quick)),
        *both(batches, ("fp32", "bf16") if quick else KINDS),
        *(Job(compiled_case, "compile operator", kind) for kind in reversed(compiled_kinds(quick))),
    ]


def compare(outputs: Outputs, expected: Outputs) -> Report:
    """Return each output's relative error in the Euclidean norm and the ratio of the norms."""
    errors, ratios = {}, {}
    for name, a, b in zip(NAMES, outputs, expected, strict=True):
        a, b = a.double().cpu(), b.double().cpu()
        errors[name] = float((a - b).norm() / b.norm())
        ratios[name] = float(a.norm() / b.norm())
    return {"relative_error": errors, "norm_ratio": ratios}


def within_tolerance(report: Report, exact: bool) -> bool:
    """Return whether a comparison is within its tolerance, that of fp32 if `exact`; False for NaN."""
    errors, ratios = report["relative_error"], report["norm_ratio"]
    if exact:
        return all(error <= TOLERANCE for error in errors.values())
    return all(abs(ratios[name] - 1) <= MAGNITUDE for name in ("logits", "embeddings"))


def measure_peaks(options: Options) -> dict[str, Peaks]:
    """Measure the peaks of each precision: a large matrix product, and a large copy."""
    side = 256 if options.quick else 8192
    speed = copy_speed(options)
    peaks = {}
    for name, kind in KINDS.items():
        left, right = torch.randn(2, side, side, device=options.device, dtype=kind.dtype)
        with kind.active():
            fastest_ms = min(repeated_ms(partial(torch.matmul, left, right), options))
        peaks[name] = Peaks(2 * side**3 / fastest_ms * 1e3, speed)
    return peaks


def floor_ms(cost: GraphCost, kind: Kind, peaks: Peaks) -> float:
    """Return the lowest time of a frame; 16-bit types move half of the bytes."""
    return peaks.floor_ms(GraphCost(cost.flops, cost.bytes // (2 if kind.half else 1)))


def kernel_count(run: Any, images: Tensor) -> int | None:
    """Return the number of kernels that a call launches; None where the profiler sees none."""
    if images.device.type != "cuda":
        return None
    activities = [torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as profile:
        run(images)
        torch.cuda.synchronize()
    kernels = [
        event
        for event in profile.events() or []
        if event.device_type == torch.autograd.DeviceType.CUDA
        and not event.name.startswith(("Memcpy", "Memset"))
    ]
    return len(kernels) or None


def peak_mib(run: Any, images: Tensor) -> float | None:
    """Return the peak memory of tensors in MiB during one call, weights included; None without a GPU."""
    if images.device.type != "cuda":
        return None
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    run(images)
    torch.cuda.synchronize()
    return round(torch.cuda.max_memory_allocated() / 2**20, 1)


class Bench:
    """The state that the variants of a case share: model, frames, the CPU's outputs, cost and results."""

    def __init__(self, case: Case, options: Options) -> None:
        say(f"{case.name}: reference on the CPU")
        self.case, self.options = case, options
        self.model = model_of(case.preset, options)
        self.images = frames_of(self.model, case)
        network = Network(self.model, case.size)
        self.expected: Outputs = network(self.images[-1:])
        self.cost = count_cost(network, self.images)
        self.images = self.images.to(options.device)
        self.variants: dict[str, Report] = {}
        self.report: Report = {
            "network": case.preset,
            "size": list(case.size),
            "padded": list(self.model.config.preprocessing.padded_size(*case.size)),
            "batch": case.batch,
            "gflop": round(self.cost.flops / 1e9, 2),
            "fp32_mb": round(self.cost.bytes / 1e6, 1),
            "variants": self.variants,
        }

    def measure(self, job: Job, peaks: Peaks) -> None:
        """Measure one variant and add it to the report."""
        kind = KINDS[job.kind]
        try:
            with kind.active():
                result = self._measure(job, kind)
        except Exception as error:  # noqa: BLE001 - a variant that fails is a result and does not end the run
            self.variants[job.variant] = {"passed": False, "error": f"{type(error).__name__}: {error}"[:500]}
            return
        floor = floor_ms(self.cost, kind, peaks)
        result["floor_ms"] = round(floor, 4)
        result["over_floor"] = round(result["graph_ms"]["median"] / floor, 2)
        base = result if job.variant == BASE else self.variants.get(BASE, {})
        if "ms" in base:
            for name in ("ms", "graph_ms"):
                result[f"gain_{name}"] = round(base["ms"]["median"] / result[name]["median"], 2)
        self.variants[job.variant] = result

    def _measure(self, job: Job, kind: Kind) -> Report:
        network = prepared(self.model, self.case, kind, self.options, operator="operator" in job.mode)
        run = compiled(network, self.options) if "compile" in job.mode else network
        start = time.perf_counter()
        outputs = run(self.images)
        result = compare(tuple(output[-1:] for output in outputs), self.expected)
        result["first_call_s"] = round(time.perf_counter() - start, 2)
        result["passed"] = within_tolerance(result, exact=kind == KINDS["fp32"])
        result["peak_mib"] = peak_mib(run, self.images)
        call = partial(run, self.images)
        result["ms"] = percentiles(repeated_ms(call, self.options))
        result["kernels"] = kernel_count(run, self.images)
        if self.options.device == "cuda":
            graph, (repeated,) = capture([call])
            call = graph.replay
            call()
        else:
            repeated = call()
        errors = compare(repeated, outputs)["relative_error"]
        result["graph_error"] = max(errors.values(), key=lambda error: (error != error, error))
        result["passed"] &= result["graph_error"] <= TOLERANCE
        result["graph_ms"] = percentiles(repeated_ms(call, self.options))
        return result


def run(options: Options, report: Report, save: Save) -> None:
    """Measure all variants that the time allows."""
    torch.backends.cudnn.benchmark = True
    problem = operator_problem(options.device)
    planned = jobs(options.quick)
    if problem is not None:
        planned = [job for job in planned if "operator" not in job.mode]
    report["operator"] = problem or "built"
    report["settings"] = {
        "weights": "reference weights; the time does not depend on them",
        "fp32": "TF32 off; as published",
        "tf32": "channels last",
        "fp16, bf16": "channels last, torch.autocast, convolutions stored in 16 bits, MobileNet in fp32",
        "compile": "torch.compile(fullgraph=True, dynamic=False)",
        "timing": "CUDA events around one call or one replay" if options.device == "cuda" else "wall clock",
        "gain": f"time of {BASE} divided by the variant's",
        "tolerance": TOLERANCE,
    }
    report["cases"], report["cut"] = [], [f"{job.case.name}, {job.variant}" for job in planned]
    with torch.inference_mode():
        peaks = measure_peaks(options)
        report["tflops"] = {name: round(peak.flops / 1e12, 2) for name, peak in peaks.items()}
        report["copy_tb_s"] = round(peaks["fp32"].bytes / 1e12, 4)
        benches: dict[Case, Bench] = {}
        slowest = NEEDED_S
        for job in planned:
            if options.left_s < (COMPILE_S if "compile" in job.mode else 1.5 * slowest):
                continue
            start = time.monotonic()
            if job.case not in benches:
                benches[job.case] = Bench(job.case, options)
                report["cases"].append(benches[job.case].report)
            benches[job.case].measure(job, peaks[job.kind])
            report["cut"].remove(f"{job.case.name}, {job.variant}")
            say(f"{job.case.name}, {job.variant}: {summary(benches[job.case].variants[job.variant])}")
            save()
            if "compile" not in job.mode:
                slowest = max(slowest, time.monotonic() - start)
            gc.collect()  # a captured graph holds its memory until it is collected
            if options.device == "cuda":
                torch.cuda.empty_cache()
    report["passed"] = bool(report["cases"]) and all(
        variant["passed"] for case in report["cases"] for variant in case["variants"].values()
    )


def summary(result: Report) -> str:
    """Return a variant's results as text."""
    if "error" in result:
        return f"FAILED {result['error']}"
    return (
        f"{result['ms']['median']:.2f} ms, graph {result['graph_ms']['median']:.2f} ms, "
        f"{result.get('gain_graph_ms', '?')} times eager fp32, {result['over_floor']} floors"
        f"{'' if result['passed'] else ' (FAILED)'}"
    )
