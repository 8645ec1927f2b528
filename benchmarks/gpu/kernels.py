"""Speed of the kernel against its memory traffic, torch's grid_sample form, and a stock-style kernel.

Times are of CUDA graphs with one call for each of several input sets, which together exceed the L2 cache; `warm` times
use one set only. The floor is the time to move every array once at the speed of a large copy on the same device.
"""

import ctypes
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.gpu.attention import TYPES, Call, library_of, network_call, run_fused
from benchmarks.gpu.checks import TOLERANCES, short
from benchmarks.gpu.common import Options, Report, Save, copy_speed, say, time_us
from idol_deploy.model.deform_attn import ms_deform_attn
from idol_plugins.cuda import CudaLibrary

__all__ = ["run"]

SIZES = ((384, 640), (736, 1280))
QUICK_SIZES = ((64, 96),)
ROTATED = 256 * 2**20  # bytes of all input sets, five times the largest L2 cache
MOST_SETS = 48


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

    def __init__(self, folder: Path, call: Call) -> None:
        self._entry = ctypes.CDLL(str(folder / "libstock_deform_attn.so")).stock_deform_attn
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


def relative_error(output: Tensor, expected: Tensor) -> float:
    """Return the relative error in the Euclidean norm."""
    return float((output.double() - expected).norm() / expected.norm())


def float64_output(call: Call) -> Tensor:
    """Return the output of torch's form in float64 on the rounded inputs."""
    wide = Call(call.value.double(), call.shapes, call.merged.double(), call.reference.double(), call.points)
    return GridSample(wide)()


def timed(make: Callable[[Call], Callable[[], object]], calls: list[Call], options: Options) -> Report:
    """Time one implementation over all input sets, and over the first set only (`warm_us`)."""
    runs = [make(call) for call in calls]
    return {"us": time_us(runs, options), "warm_us": time_us(runs[:1] * min(8, len(runs)), options)}


def measure(
    size: tuple[int, int],
    decoder: bool,
    types: tuple[torch.dtype, ...],
    speed: float,  # of a copy, bytes/s
    library: CudaLibrary,
    options: Options,
) -> Report:
    """Measure one kind of call in one pair of types with the kernel and the implementations it is compared with."""
    first = network_call(size, decoder, types, 0, options.device)
    sets = 2 if options.quick else max(4, min(MOST_SETS, -(-ROTATED // first.traffic)))
    calls = [first, *(network_call(size, decoder, types, seed, options.device) for seed in range(1, sets))]
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
        "failed": [],
    }
    out = first.empty_out()
    run_fused(library, first, out)
    error = relative_error(out, expected)
    kernel = timed(lambda call: partial(run_fused, library, call, call.empty_out()), calls, options)
    median = kernel["us"]["median"]
    report["libraries"] = {
        "kernel": {
            **kernel,
            "relative_error": error,
            "over_floor": round(median / report["floor_us"], 2),
            "gathered_tb_s": round(gathered / median / 1e6, 2),
        }
    }
    if not error <= TOLERANCES[types[0]]:
        report["failed"].append("kernel")
    if types[0] == types[1]:
        report |= measure_others(calls, expected, options)
        report["gain"] = gains(report)
    return report


def measure_others(calls: list[Call], expected: Tensor, options: Options) -> Report:
    """Measure the stock-style kernel, and torch's form with few input sets since its intermediate arrays are large."""
    torch_error = relative_error(GridSample(calls[0])(), expected)
    report: Report = {"torch": {**timed(GridSample, calls[:4], options), "relative_error": torch_error}}
    if options.device == "cuda":
        stocks = [Stock(Path(os.environ["IDOL_PLUGINS"]), call) for call in calls]
        by_call = {id(stock.call): stock for stock in stocks}
        report["stock"] = {
            "relative_error": relative_error(stocks[0].with_preparation(), expected),
            "alone": timed(lambda call: by_call[id(call)].alone, calls, options),
            "with_softmax_and_locations": timed(
                lambda call: by_call[id(call)].with_preparation, calls, options
            ),
        }
    return report


def gains(report: Report) -> Report:
    """Return the times of the other implementations divided by the kernel's."""
    kernel = report["libraries"]["kernel"]["us"]["median"]
    times = {"torch": report["torch"]["us"]["median"]}
    if "stock" in report:
        times["stock_alone"] = report["stock"]["alone"]["us"]["median"]
        times["stock_whole"] = report["stock"]["with_softmax_and_locations"]["us"]["median"]
    return {name: round(median / kernel, 2) for name, median in times.items()}


def run(options: Options, report: Report, save: Save) -> None:
    """Measure every call in every pair of types, the encoder's first and large sizes before small ones."""
    library = library_of(options.device)
    speed = copy_speed(options)
    report["copy_tb_s"] = round(speed / 1e12, 4)
    report["calls"] = []
    sizes = QUICK_SIZES if options.quick else SIZES
    for decoder in (False, True):
        for size in reversed(sizes):
            for types in TYPES:
                call = measure(size, decoder, types, speed, library, options)
                report["calls"].append(call)
                say(summary(call))
                save()
    report["passed"] = not any(call["failed"] for call in report["calls"])


def summary(call: Report) -> str:
    """Return one call's results as text."""
    kernel = call["libraries"]["kernel"]
    return (
        f"{call['call']}, {' of '.join(call['types'])}, floor {call['floor_us']} us, gain {call.get('gain', {})}\n"
        f"  kernel {kernel['us']['median']:.2f} us, warm {kernel['warm_us']['median']:.2f}, "
        f"{kernel['over_floor']:.2f} floors, {kernel['gathered_tb_s']:.2f} TB/s gathered, "
        f"error {kernel['relative_error']:.1e}{' (too large)' if call['failed'] else ''}"
    )
