"""The network on a CUDA device: does it answer as on the CPU, how fast, and with how much memory.

One frame at a time through the published ytvis19_r50 network with reference weights, at 384x640 and 736x1280:
PyTorch eager and torch.compile, each in fp32 with TF32 off and under fp16 autocast. Every variant's six outputs
are compared with those of the CPU in fp32. Progress goes to stderr; stdout gets one JSON document, which is
also written to $OUT/gpu.json where OUT is set.

    benchmarks/gpu.sh                                       on a machine with a CUDA device
    python benchmarks/gpu.py --device cpu --quick           a dry run of everything but CUDA

Exits with 1 when an fp32 variant is off by more than the tolerance, an fp16 variant has lost the magnitude of
its logits or embeddings, or a variant fails; with 3 without a CUDA device. Needs torch and numpy alone.
"""

import argparse
import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from machine import machine_facts
from torch import Tensor, nn

from idol_deploy.config import ytvis19_r50
from idol_deploy.model.geometry import Geometry, build_geometry
from idol_deploy.model.idol import Idol
from idol_deploy.reference import make_video, reference_model
from idol_runtime.files import replacing

NAMES = ("logits", "boxes", "embeddings", "mask_features", "mask_params", "mask_reference")
SIZES = ((384, 640), (736, 1280))
QUICK_SIZES = ((64, 96), (96, 64))
# fp32 on a GPU adds in another order: 1e-6 to 1e-5 after 60 layers. TF32 or a wrong kernel is off by far more.
TOLERANCE = 1e-3
MAGNITUDE = 0.1
NO_CUDA = 3

Outputs: TypeAlias = tuple[Tensor, ...]
Variant: TypeAlias = Callable[[Tensor], Outputs]
Report: TypeAlias = dict[str, object]


class Network(nn.Module):
    """The network at one size, its geometry computed once, as in the graph that ships."""

    def __init__(self, model: Idol, size: tuple[int, int], half: bool) -> None:
        super().__init__()
        self.model = model
        self.half_precision = half
        device = next(model.parameters()).device
        self.device_type = device.type
        unpadded = torch.zeros(1, *size, dtype=torch.bool, device=device)
        self.geometry: Geometry = build_geometry(unpadded, model.config.model.hidden_dim)

    def forward(
        self,
        images: Tensor,  # [1, 3, H, W] normalised
    ) -> Outputs:
        """The six outputs."""
        with torch.autocast(self.device_type, torch.float16, enabled=self.half_precision):
            sources = self.model.neck(self.model.backbone(images))
            memory = self.model.transformer.encode(sources, self.geometry)
            decoder = self.model.transformer.decode(memory, self.geometry)
            found = self.model.predict(memory, decoder, self.geometry)
        return (
            found.logits,
            found.boxes,
            found.embeddings,
            found.mask_features,
            found.mask_params,
            found.mask_reference,
        )


def say(text: str) -> None:
    """Progress, to stderr."""
    print(text, file=sys.stderr, flush=True)


def frame_of(model: Idol, size: tuple[int, int]) -> Tensor:
    """A synthetic frame, [1, 3, H, W], normalised."""
    pixels = torch.from_numpy(make_video(1, *size, seed=0)).float()
    settings = model.config.preprocessing
    mean, std = (torch.tensor(v)[None, :, None, None] for v in (settings.mean, settings.std))
    return (pixels - mean) / std


def compare(found: Outputs, expected: Outputs) -> Report:
    """Per output: the relative error in the Euclidean norm, and the ratio of the norms."""
    errors, ratios = {}, {}
    for name, a, b in zip(NAMES, found, expected, strict=True):
        a, b = a.double().cpu(), b.double()
        errors[name] = float((a - b).norm() / b.norm())
        ratios[name] = float(a.norm() / b.norm())
    return {"relative_error": errors, "norm_ratio": ratios}


def holds(report: Report, half: bool) -> bool:
    """Whether a comparison is within its bounds; NaN never is."""
    errors, ratios = report["relative_error"], report["norm_ratio"]
    assert isinstance(errors, dict)
    assert isinstance(ratios, dict)
    if half:
        return all(abs(ratios[name] - 1) <= MAGNITUDE for name in ("logits", "embeddings"))
    return all(error <= TOLERANCE for error in errors.values())


def variants(model: Idol, size: tuple[int, int], compiler: str) -> dict[str, Variant]:
    """By name: eager and compiled, fp32 and fp16."""
    torch.compiler.reset()  # or the second size would count as a recompilation of the first
    found: dict[str, Variant] = {}
    for half in (False, True):
        network = Network(model, size, half).eval()
        kind = "fp16" if half else "fp32"
        found[f"eager_{kind}"] = network
        found[f"compile_{kind}"] = torch.compile(
            Network(model, size, half).eval(), dynamic=False, backend=compiler
        )
    return found


def time_ms(run: Variant, images: Tensor) -> float:
    """One call: by CUDA events on a GPU, by the clock elsewhere."""
    if images.device.type != "cuda":
        start = time.perf_counter()
        run(images)
        return (time.perf_counter() - start) * 1e3
    event = torch.cuda.Event
    begin, end = event(enable_timing=True), event(enable_timing=True)  # type: ignore[no-untyped-call, unused-ignore]
    begin.record()
    run(images)
    end.record()
    end.synchronize()
    return float(begin.elapsed_time(end))


def peak_mib(run: Variant, images: Tensor) -> float | None:
    """Most memory that tensors held during one call, weights included; None without a GPU."""
    if images.device.type != "cuda":
        return None
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    run(images)
    torch.cuda.synchronize()
    return round(torch.cuda.max_memory_allocated() / 2**20, 1)


def check_size(models: tuple[Idol, Idol], size: tuple[int, int], compiler: str, iterations: int) -> Report:
    """Parity, latency and memory of every variant at one size; variants take turns when timed."""
    on_cpu, on_device = models
    say(f"{size[0]}x{size[1]}: reference on the CPU")
    images = frame_of(on_cpu, size)
    expected = Network(on_cpu, size, half=False)(images)
    images = images.to(next(on_device.parameters()).device)
    report: dict[str, Report] = {}
    ready: dict[str, Variant] = {}
    for name, run in variants(on_device, size, compiler).items():
        say(f"{size[0]}x{size[1]}: {name}")
        try:
            start = time.perf_counter()
            outputs = run(images)
            half = name.endswith("fp16")
            report[name] = {
                **compare(outputs, expected),
                "first_call_s": round(time.perf_counter() - start, 2),
            }
            report[name]["passed"] = holds(report[name], half)
            for _ in range(min(5, iterations)):
                run(images)
            report[name]["peak_mib"] = peak_mib(run, images)
        except Exception as error:  # noqa: BLE001 - a compiler that fails is a finding, not the run's end
            report[name] = {"passed": False, "error": f"{type(error).__name__}: {error}"[:500]}
            continue
        ready[name] = run
    times: dict[str, list[float]] = {name: [] for name in ready}
    for _ in range(iterations):
        for name, run in ready.items():
            times[name].append(time_ms(run, images))
    for name, values in times.items():
        report[name]["median_ms"] = round(float(np.median(values)), 3)
        report[name]["p90_ms"] = round(float(np.percentile(values, 90)), 3)
    return {"size": list(size), "iterations": iterations, "variants": report}


def device_facts(device: str) -> Report:
    """The accelerator and the software that drives it."""
    facts: Report = {**machine_facts(), "torch": torch.__version__, "cuda": torch.version.cuda}
    if device == "cuda":
        properties = torch.cuda.get_device_properties(0)
        facts["device"] = properties.name
        facts["device_memory_gib"] = round(properties.total_memory / 2**30, 1)
        facts["cudnn"] = torch.backends.cudnn.version()  # type: ignore[no-untyped-call, unused-ignore]
        if shutil.which("nvidia-smi"):
            query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader", "--id=0"]
            facts["driver"] = subprocess.run(
                query, capture_output=True, text=True, check=False
            ).stdout.strip()
    else:
        facts["device"] = "cpu"
    return facts


def check(device: str, quick: bool, iterations: int) -> Report:
    """The whole report."""
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.benchmark = True
    if quick:
        torch.set_num_threads(1)  # threads of small frames on a busy machine wait for each other
    on_cpu = reference_model(ytvis19_r50())
    on_device = reference_model(ytvis19_r50()).to(device)
    compiler = "eager" if quick else "inductor"
    with torch.inference_mode():
        sizes = [
            check_size((on_cpu, on_device), size, compiler, iterations)
            for size in (QUICK_SIZES if quick else SIZES)
        ]
    passed = True
    for size in sizes:
        listing = size["variants"]
        assert isinstance(listing, dict)
        passed = passed and all(variant["passed"] for variant in listing.values())
    return {
        "machine": device_facts(device),
        "network": "ytvis19_r50, reference weights, batch 1",
        "settings": {
            "fp32": "TF32 off",
            "fp16": "torch.autocast(float16); weights stay fp32",
            "compile": f"torch.compile(dynamic=False, backend={compiler!r})",
            "cudnn_benchmark": True,
            "timing": "CUDA events, variants in turn" if device == "cuda" else "wall clock, variants in turn",
            "tolerance": TOLERANCE,
        },
        "passed": passed,
        "sizes": sizes,
    }


def main() -> int:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--quick", action="store_true", help="small frames, 2 iterations, no code generation")
    parser.add_argument("--iterations", type=int, default=50, help="timed calls of each variant")
    args = parser.parse_args()
    if args.device == "cuda" and not torch.cuda.is_available():
        say("this check needs a CUDA device, and torch finds none; try --device cpu --quick")
        return NO_CUDA
    with contextlib.redirect_stdout(sys.stderr):
        found = check(args.device, args.quick, 2 if args.quick else args.iterations)
    text = json.dumps(found, indent=2)
    print(text)
    if os.environ.get("OUT"):
        with replacing(Path(os.environ["OUT"]) / "gpu.json") as temporary:
            temporary.write_text(text + "\n")
    return 0 if found["passed"] else 1


if __name__ == "__main__":
    sys.exit(main())
