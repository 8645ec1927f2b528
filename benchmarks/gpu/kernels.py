"""How fast the kernel is: against the memory it must move, torch's grid_sample form, and a stock-style kernel.

Times are of CUDA graphs that call once for each of several input sets, together larger than the L2 cache; `warm` is of
one set again and again. The floor is every array once, at the speed of a large copy on the same device.
"""

import ctypes
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeAlias

import torch
from torch import Tensor

from benchmarks.gpu.attention import TYPES, Call, library_of, network_call, run_fused
from benchmarks.gpu.checks import TOLERANCES, short
from benchmarks.gpu.common import Options, Report, Save, say, time_us
from idol_deploy.model.deform_attn import ms_deform_attn
from idol_plugins.cuda import CudaLibrary

__all__ = ["run", "run_over"]

SIZES = ((384, 640), (736, 1280))
QUICK_SIZES = ((64, 96),)
ROTATED = 256 * 2**20  # bytes of all input sets: five times the largest L2 there is to meet
MOST_SETS = 48

Libraries: TypeAlias = dict[str, Path | None]  # files by name; None: the library that ships


def copy_speed(options: Options) -> float:
    """Bytes a second of a large copy, read and written counted."""
    count = 2**20 if options.quick else 2**30
    source = torch.empty(count, dtype=torch.uint8, device=options.device).random_(0, 255)
    target = torch.empty_like(source)
    taken = time_us([lambda: target.copy_(source)], options)["median"]
    return float(2 * count / taken * 1e6)


class GridSample:
    """Torch's form; its constants are on the device already, as a compiled graph would have them."""

    def __init__(self, call: Call) -> None:
        self.call = call
        self.sides = torch.tensor(
            [[w, h] for h, w in call.shapes], device=call.value.device, dtype=torch.float32
        )

    def prepare(self) -> tuple[Tensor, Tensor]:
        """Locations and weights."""
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
        """The answer."""
        locations, weights = self.prepare()
        return ms_deform_attn(self.call.value, self.call.shapes, locations, weights)


class Stock:
    """The stock-style kernel, and what must run before it."""

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
        """The kernel; on locations and weights made before, unless given."""
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
            raise RuntimeError(f"the stock-style kernel's launch failed with CUDA error {status}")
        return self.out

    def whole(self) -> Tensor:
        """Softmax and locations by torch, then the kernel."""
        locations, weights = self._form.prepare()
        return self.alone((locations.contiguous(), weights.contiguous()))


def relative(found: Tensor, expected: Tensor) -> float:
    """Relative error in the Euclidean norm."""
    return float((found.double() - expected).norm() / expected.norm())


def in_double(call: Call) -> Tensor:
    """Torch's form in float64 on the rounded inputs: another code than the kernel's, at full size."""
    wide = Call(call.value.double(), call.shapes, call.merged.double(), call.reference.double(), call.points)
    return GridSample(wide)()


def timed(make: Callable[[Call], Callable[[], object]], calls: list[Call], options: Options) -> Report:
    """A way to answer, over all input sets and over one."""
    runs = [make(call) for call in calls]
    return {"us": time_us(runs, options), "warm_us": time_us(runs[:1] * min(8, len(runs)), options)}


def ours(library: CudaLibrary, call: Call) -> Callable[[], object]:
    """Our kernel on a call, its output its own."""
    return partial(run_fused, library, call, call.empty_out())


def measure(
    size: tuple[int, int],
    decoder: bool,
    types: tuple[torch.dtype, ...],
    speed: float,
    libraries: Libraries,
    others: bool,
    options: Options,
) -> Report:
    """One kind of call in one pair of types, by our libraries, and by what they are compared with if asked."""
    first = network_call(size, decoder, types, 0, options.device)
    sets = 2 if options.quick else max(4, min(MOST_SETS, -(-ROTATED // first.traffic)))
    calls = [first, *(network_call(size, decoder, types, seed, options.device) for seed in range(1, sets))]
    expected = in_double(first)
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
        "libraries": {},
        "failed": [],
    }
    for name, path in libraries.items():
        try:
            found = measure_library(library_of(options.device, path), calls, expected, options)
        except Exception as reason:  # noqa: BLE001 - a candidate that fails is a finding
            found = {"error": f"{type(reason).__name__}: {reason}"[:300], "relative_error": float("inf")}
        else:
            median = found["us"]["median"]
            found["over_floor"] = round(median / report["floor_us"], 2)
            found["gathered_tb_s"] = round(gathered / median / 1e6, 2)
        report["libraries"][name] = found
        if not found["relative_error"] <= TOLERANCES[types[0]]:
            report["failed"].append(name)
    if others and types[0] == types[1]:
        report |= compared(calls, expected, options)
        report["gain"] = gains(report)
    return report


def measure_library(library: CudaLibrary, calls: list[Call], expected: Tensor, options: Options) -> Report:
    """Error and times of one of our libraries."""
    out = calls[0].empty_out()
    run_fused(library, calls[0], out)
    error = relative(out, expected)
    return {**timed(partial(ours, library), calls, options), "relative_error": error}


def compared(calls: list[Call], expected: Tensor, options: Options) -> Report:
    """Torch's form, whose intermediate arrays are large, over a few input sets; and the stock-style kernel."""
    form = GridSample(calls[0])()
    report: Report = {
        "torch": {**timed(GridSample, calls[:4], options), "relative_error": relative(form, expected)}
    }
    if options.device == "cuda":
        stocks = [Stock(Path(os.environ["IDOL_PLUGINS"]), call) for call in calls]
        by_call = {id(stock.call): stock for stock in stocks}
        report["stock"] = {
            "relative_error": relative(stocks[0].whole(), expected),
            "alone": timed(lambda call: by_call[id(call)].alone, calls, options),
            "with_softmax_and_locations": timed(lambda call: by_call[id(call)].whole, calls, options),
        }
    return report


def gains(report: Report) -> Report:
    """Times of the others over the kernel's."""
    kernel = report["libraries"]["kernel"].get("us")
    stock = report.get("stock", {})
    others = {
        "torch": report["torch"].get("us"),
        "stock_alone": stock.get("alone", {}).get("us"),
        "stock_whole": stock.get("with_softmax_and_locations", {}).get("us"),
    }
    if not kernel:
        return {}
    return {name: round(found["median"] / kernel["median"], 2) for name, found in others.items() if found}


def run_over(
    libraries: Libraries,
    others: bool,
    options: Options,
    report: Report,
    save: Save,
    kinds: tuple[tuple[torch.dtype, ...], ...] = TYPES,
) -> None:
    """Every call by every library; the encoder's first, the large before the small."""
    speed = copy_speed(options)
    report["copy_tb_s"] = round(speed / 1e12, 4)
    report["calls"] = []
    sizes = QUICK_SIZES if options.quick else SIZES
    for decoder in (False, True):
        for size in reversed(sizes):
            for types in kinds:
                found = measure(size, decoder, types, speed, libraries, others, options)
                report["calls"].append(found)
                if others:
                    say(table(found))
                save()
    report["passed"] = not any(found["failed"] for found in report["calls"])


def run(options: Options, report: Report, save: Save) -> None:
    """The library that ships, and what it is compared with."""
    run_over({"kernel": None}, True, options, report, save)


def table(found: Report) -> str:
    """A line for each library, fastest first."""
    kind = f"{found['types'][0]} of {found['types'][1]}"
    lines = [f"{found['call']}, {kind}, floor {found['floor_us']} us, gain {found.get('gain', {})}"]
    done = {name: one for name, one in found["libraries"].items() if "us" in one}
    for name, one in sorted(done.items(), key=lambda item: float(item[1]["us"]["median"])):
        lines.append(
            f"  {name:28} {one['us']['median']:9.2f} us, warm {one['warm_us']['median']:9.2f}, "
            f"{one['over_floor']:6.2f} floors, {one['gathered_tb_s']:5.2f} TB/s gathered, "
            f"error {one['relative_error']:.1e}"
        )
    lines += [f"  {name}: {found['libraries'][name].get('error', 'wrong')}" for name in found["failed"]]
    return "\n".join(lines)
