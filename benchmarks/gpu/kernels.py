"""Speed of every kernel against its memory traffic, a gather, torch's grid_sample form, and a stock-style kernel.

Times are of CUDA graphs with one call for each of several input sets, which together exceed the L2 cache; `warm` times
use one set only. All implementations of a call are timed interleaved. The floor is the time to move every array once at
the speed of a large copy. The gather reads as many random cells of value as the call has taps.
"""

import ctypes
import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.gpu.attention import TYPES, Call, libraries_of, network_call, run_fused
from benchmarks.gpu.checks import TOLERANCES, short
from benchmarks.gpu.common import Options, Report, Save, capture, copy_speed, interleaved_ms, say
from idol_deploy.model.deform_attn import ms_deform_attn
from idol_plugins.cuda import CudaLibrary

__all__ = ["goals_of", "run"]

SIZES = ((384, 640), (736, 1280))
QUICK_SIZES = ((64, 96),)
ROTATED = 256 * 2**20  # bytes of all input sets, five times the largest L2 cache
MOST_SETS, WARM_CALLS, TORCH_SETS = 48, 8, 4  # torch's intermediate arrays are large

Runs = Mapping[str, Sequence[Callable[[], object]]]


class GridSample:
    """Torch's form with its constants on the device, as in a compiled graph."""

    def __init__(self, call: Call) -> None:
        self.call = call
        self.sides = torch.tensor(
            [[w, h] for h, w in call.shapes], device=call.value.device, dtype=torch.float32
        )

    def prepare(self) -> tuple[Tensor, Tensor]:
        """Return sampling locations and weights."""
        call = self.call
        offsets, logits = call.split()
        weights = logits.softmax(-1).reshape(offsets.shape[:-1])
        centre = call.reference[:, :, None, :, None, :2]
        if call.reference.shape[-1] == 2:
            locations = centre + offsets / self.sides[:, None]
        else:
            locations = centre + offsets / call.points * call.reference[:, :, None, :, None, 2:] * 0.5
        return locations.to(call.value.dtype), weights.to(call.value.dtype)

    def __call__(self) -> Tensor:
        """Return the attention's output."""
        locations, weights = self.prepare()
        return ms_deform_attn(self.call.value, self.call.shapes, locations, weights)


class Stock:
    """The stock-style kernel and the operations that precede it."""

    def __init__(self, library: ctypes.CDLL, call: Call) -> None:
        self._entry = library.stock_deform_attn
        self._entry.argtypes = (
            [ctypes.c_int32] + [ctypes.c_void_p] * 6 + [ctypes.c_int32] * 7 + [ctypes.c_void_p]
        )
        self.call, self._form = call, GridSample(call)
        self.prepared = tuple(tensor.contiguous() for tensor in self._form.prepare())
        self._cells = torch.tensor(call.shapes, dtype=torch.int32, device="cuda")
        sizes = torch.tensor([h * w for h, w in call.shapes])
        self._starts = (sizes.cumsum(0) - sizes).to(torch.int32).cuda()
        self.out = call.empty_out()

    def alone(self, prepared: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """Run the kernel alone, by default on the locations and weights of the constructor."""
        locations, weights = prepared or self.prepared
        call = self.call
        N, S, M, D = call.value.shape
        pointers = (call.value, self._cells, self._starts, locations, weights, self.out)
        status = self._entry(
            int(call.value.dtype == torch.float16),
            *(tensor.data_ptr() for tensor in pointers),
            *(N, S, call.merged.shape[1], M, D, len(call.shapes), call.points),
            torch.cuda.current_stream().cuda_stream,
        )
        if status:
            raise RuntimeError(f"launch of the stock-style kernel failed: CUDA error {status}")
        return self.out

    def with_preparation(self) -> Tensor:
        """Compute softmax and locations in torch, then run the kernel."""
        locations, weights = self._form.prepare()
        return self.alone((locations.contiguous(), weights.contiguous()))


class Gather:
    """Reads of random cells of a call's value, as many as the call has taps."""

    def __init__(self, library: ctypes.CDLL, call: Call) -> None:
        self._entry = library.gather_cells
        self._entry.argtypes = (
            *(ctypes.c_void_p, ctypes.c_uint32, ctypes.c_int32, ctypes.c_int64),
            *(ctypes.c_void_p, ctypes.c_void_p),
        )
        self._value, self._reads = call.value, 4 * call.samples // 8 * 8
        lanes = call.value.shape[3] * call.value.element_size() // 16
        self._shift = lanes.bit_length() - 1
        self._out = call.value.new_empty(self._reads // 8 * lanes, dtype=torch.int32)

    def __call__(self) -> None:
        """Queue the reads in the current stream."""
        cells = self._value[..., 0].numel()
        stream = torch.cuda.current_stream().cuda_stream
        status = self._entry(
            self._value.data_ptr(), cells, self._shift, self._reads, self._out.data_ptr(), stream
        )
        if status:
            raise RuntimeError(f"launch of the gather failed: CUDA error {status}")


def relative_error(output: Tensor, expected: Tensor) -> float:
    """Return the relative error in the Euclidean norm."""
    return float((output.double() - expected).norm() / expected.norm())


def float64_output(call: Call) -> Tensor:
    """Return the output of torch's form in float64 on the rounded inputs."""
    wide = Call(call.value.double(), call.shapes, call.merged.double(), call.reference.double(), call.points)
    return GridSample(wide)()


def times_of(runs: Runs, options: Options) -> dict[str, float]:
    """Return the median microseconds per call of each implementation, timed interleaved."""

    def in_order(calls: Sequence[Callable[[], object]]) -> Callable[[], object]:
        if options.device == "cuda":
            return capture(calls)[0].replay
        return lambda: [call() for call in calls]

    times = interleaved_ms({name: in_order(calls) for name, calls in runs.items()}, options)
    return {name: round(1e3 * times[name]["median"] / len(calls), 2) for name, calls in runs.items()}


def others(calls: list[Call], expected: Tensor, report: Report, options: Options) -> dict[str, Any]:
    """Return the implementations to compare with, and add their errors to the report."""
    plain = calls[0].value.dtype == calls[0].merged.dtype
    runs: dict[str, Any] = {}
    if plain:
        report["errors"]["torch"] = relative_error(GridSample(calls[0])(), expected)
        runs["torch"] = [GridSample(call) for call in calls[:TORCH_SETS]]
    if options.device == "cuda":
        library = ctypes.CDLL(str(Path(os.environ["IDOL_PLUGINS"]) / "libstock_deform_attn.so"))
        runs["gather"] = [Gather(library, call) for call in calls]
        if plain:
            stocks = [Stock(library, call) for call in calls]
            report["errors"]["stock"] = relative_error(stocks[0].with_preparation(), expected)
            runs["stock"] = [stock.alone for stock in stocks]
            runs["stock with softmax"] = [stock.with_preparation for stock in stocks]
    return runs


def measure(
    size: tuple[int, int],
    decoder: bool,
    types: tuple[torch.dtype, ...],
    speed: float,  # of a copy, bytes/s
    libraries: Mapping[str, CudaLibrary],
    options: Options,
) -> Report:
    """Measure one kind of call in one pair of types with every kernel and the implementations to compare with."""
    first = network_call(size, decoder, types, 0, options.device)
    sets = 2 if options.quick else max(4, min(MOST_SETS, -(-ROTATED // first.traffic)))
    calls = [first, *(network_call(size, decoder, types, seed, options.device) for seed in range(1, sets))]
    outs = [call.empty_out() for call in calls]
    expected = float64_output(first)
    gathered = first.samples * 4 * first.value.shape[3] * first.value.element_size()
    report: Report = {
        "call": f"{'decoder' if decoder else 'encoder'} at {size[0]}x{size[1]}",
        "types": [short(dtype) for dtype in types],
        "tokens": first.value.shape[1],
        "queries": first.merged.shape[1],
        "input_sets": sets,
        "traffic_mb": round(first.traffic / 1e6, 2),
        "floor_us": round(first.traffic / speed * 1e6, 2),
        "gathered_mb": round(gathered / 1e6, 2),
        "tolerance": TOLERANCES[types[0]],
        "errors": {},
    }
    runs: dict[str, Any] = {}
    for name, library in libraries.items():
        run_fused(library, first, outs[0].fill_(float("nan")))
        report["errors"][name] = relative_error(outs[0], expected)
        runs[name] = [partial(run_fused, library, *pair) for pair in zip(calls, outs, strict=True)]
    report["failed"] = [name for name in libraries if not report["errors"][name] <= report["tolerance"]]
    runs |= others(calls, expected, report, options)
    warm = {name: runs[name][:1] * WARM_CALLS for name in (*libraries, "gather", "stock") if name in runs}
    report["us"], report["warm_us"] = times_of(runs, options), times_of(warm, options)
    report["winner"] = min(libraries, key=report["us"].__getitem__)
    best = report["us"][report["winner"]]
    report["over_floor"] = round(best / report["floor_us"], 2)
    report["gathered_tb_s"] = {
        name: round(gathered / us / 1e6, 2)
        for name, us in report["us"].items()
        if name in (*libraries, "gather")
    }
    report["gain"] = {name: round(us / best, 2) for name, us in report["us"].items() if name not in libraries}
    return report


def goals_of(calls: Sequence[Report]) -> list[Report]:
    """Return the goals of the fastest kernels on a device: `value` must be at least `target`."""
    goals = []
    by_type = {(call["call"], *call["types"]): call["us"][call["winner"]] for call in calls}
    for call in calls:
        name, half = f"{call['call']}, {' of '.join(call['types'])}", ["float16"] * 2
        encoder = call["call"].startswith("encoder")
        found: list[tuple[str, float, float]] = []
        if "stock" in call["gain"]:
            found.append(
                ("time of the stock-style kernel / time", call["gain"]["stock"], 2.0 if encoder else 1.0)
            )
        if encoder and "gather" in call["gain"]:
            found.append(("speed / speed of the gather", call["gain"]["gather"], 0.6))
        wide = by_type.get((call["call"], "float32", "float32"))
        if wide is not None and call["types"] == half:
            found.append(("time of fp32 / time", round(wide / call["us"][call["winner"]], 2), 1.0))
        goals += [
            {"call": name, "goal": goal, "value": value, "target": target, "met": value >= target}
            for goal, value, target in found
        ]
    return goals


def run(options: Options, report: Report, save: Save) -> None:
    """Measure every call in every pair of types, the encoder's first and large sizes before small ones."""
    libraries = {name: entry for name, entry in libraries_of(options.device).items() if name != "auto"}
    speed = copy_speed(options)
    report["copy_tb_s"] = round(speed / 1e12, 4)
    report["calls"], report["goals"] = [], []
    sizes = QUICK_SIZES if options.quick else SIZES
    for decoder in (False, True):
        for size in reversed(sizes):
            for types in TYPES:
                call = measure(size, decoder, types, speed, libraries, options)
                report["calls"].append(call)
                report["goals"] = goals_of(report["calls"])
                say(summary(call, report["goals"]))
                save()
    report["passed"] = not any(call["failed"] for call in report["calls"])


def summary(call: Report, goals: Sequence[Report]) -> str:
    """Return one call's results and goals as text."""
    name = f"{call['call']}, {' of '.join(call['types'])}"
    times = ", ".join(
        f"{entry} {us:.1f}" for entry, us in sorted(call["us"].items(), key=lambda item: item[1])
    )
    lines = [
        f"{name}: {call['winner']} is the fastest kernel, {call['over_floor']} floors; us: {times}",
        *(
            f"  {'goal met' if goal['met'] else 'goal MISSED'}: {goal['goal']} {goal['value']}, goal {goal['target']}"
            for goal in goals
            if goal["call"] == name
        ),
    ]
    if call["failed"]:
        lines.append(f"  output too far from float64: {', '.join(call['failed'])}")
    return "\n".join(lines)
