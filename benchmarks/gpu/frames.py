"""The network on a CUDA device: does it answer as on the CPU, how fast, and with how much memory.

One frame at a time through the published ytvis19_r50 network with reference weights, at 384x640 and 736x1280: PyTorch
eager and torch.compile, each in fp32 with TF32 off and under fp16 autocast, with the attention as published and, where
it is built, as our operator. Every variant's six outputs are compared with those of the CPU in fp32.

Fails when an fp32 variant is off by more than the tolerance, an fp16 variant has lost the magnitude of its logits or
embeddings, or a variant fails.
"""

import copy
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import TypeAlias

import torch
from torch import Tensor, nn

from benchmarks.gpu.common import Options, Report, Save, say, turns
from idol_deploy.config import IdolConfig, ytvis19_r50
from idol_deploy.model.deform_op import operator_problem, use_operator
from idol_deploy.model.geometry import Geometry, build_geometry
from idol_deploy.model.idol import Idol
from idol_deploy.weights.reference import make_video, reference_model

__all__ = ["Network", "compare", "frame_of", "holds", "network_config", "run"]

NAMES = ("logits", "boxes", "embeddings", "mask_features", "mask_params", "mask_reference")
SIZES = ((384, 640), (736, 1280))
QUICK_SIZES = ((64, 96), (96, 64))
# fp32 on a GPU adds in another order: 1e-6 to 1e-5 after 60 layers. TF32 or a wrong kernel is off by far more.
TOLERANCE = 1e-3
MAGNITUDE = 0.1
OPERATOR = "_operator"  # ends the names of variants that use ours

Outputs: TypeAlias = tuple[Tensor, ...]
Variant: TypeAlias = Callable[[Tensor], Outputs]


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
    if half:
        return all(abs(ratios[name] - 1) <= MAGNITUDE for name in ("logits", "embeddings"))
    return all(error <= TOLERANCE for error in errors.values())


def network_config(options: Options) -> IdolConfig:
    """The published network's; of a dry run, with one layer of each kind."""
    config = ytvis19_r50()
    if not options.quick:
        return config
    return replace(config, model=replace(config.model, encoder_layers=1, decoder_layers=1))


def variants(models: dict[str, Idol], size: tuple[int, int], compiler: str) -> dict[str, Variant]:
    """By name: eager and compiled, fp32 and fp16, without and with the operator."""
    torch.compiler.reset()  # or the second size would count as a recompilation of the first
    found: dict[str, Variant] = {}
    for half in (False, True):
        for suffix, model in models.items():
            kind = ("fp16" if half else "fp32") + suffix
            found[f"eager_{kind}"] = Network(model, size, half).eval()
            found[f"compile_{kind}"] = torch.compile(
                Network(model, size, half).eval(), fullgraph=True, dynamic=False, backend=compiler
            )
    return found


def peak_mib(run: Variant, images: Tensor) -> float | None:
    """Most memory that tensors held during one call, weights included; None without a GPU."""
    if images.device.type != "cuda":
        return None
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    run(images)
    torch.cuda.synchronize()
    return round(torch.cuda.max_memory_allocated() / 2**20, 1)


def check_size(
    on_cpu: Idol, on_device: dict[str, Idol], size: tuple[int, int], compiler: str, options: Options
) -> Report:
    """Parity, latency and memory of every variant at one size; variants take turns when timed."""
    say(f"{size[0]}x{size[1]}: reference on the CPU")
    images = frame_of(on_cpu, size)
    expected = Network(on_cpu, size, half=False)(images)
    images = images.to(options.device)
    report: dict[str, Report] = {}
    ready: dict[str, Variant] = {}
    for name, run_variant in variants(on_device, size, compiler).items():
        say(f"{size[0]}x{size[1]}: {name}")
        try:
            start = time.perf_counter()
            outputs = run_variant(images)
            report[name] = {
                **compare(outputs, expected),
                "first_call_s": round(time.perf_counter() - start, 2),
            }
            report[name]["passed"] = holds(report[name], "fp16" in name)
            report[name]["peak_mib"] = peak_mib(run_variant, images)
        except Exception as error:  # noqa: BLE001 - a compiler that fails is a finding, not the run's end
            report[name] = {"passed": False, "error": f"{type(error).__name__}: {error}"[:500]}
            continue
        ready[name] = run_variant
    for name, taken in turns({name: partial(one, images) for name, one in ready.items()}, options).items():
        report[name]["ms"] = taken
    return {"size": list(size), "repeats": options.repeats, "variants": report, "gain": gains(report)}


def gains(report: dict[str, Report]) -> dict[str, float]:
    """By variant: the time without the operator over the time with it."""
    found = {}
    for name, variant in report.items():
        ours = report.get(name + OPERATOR, {})
        if "ms" in ours and "ms" in variant:
            found[name] = round(variant["ms"]["median"] / ours["ms"]["median"], 2)
    return found


def run(options: Options, report: Report, save: Save) -> None:
    """Every size, the smaller first."""
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.benchmark = True
    on_cpu = reference_model(network_config(options))
    on_device = {"": copy.deepcopy(on_cpu).to(options.device)}
    problem = operator_problem(options.device)
    if problem is None:
        on_device[OPERATOR] = copy.deepcopy(on_cpu).to(options.device)
        use_operator(on_device[OPERATOR], required=True)
    compiler = "eager" if options.quick else "inductor"
    report["network"] = "ytvis19_r50, reference weights, batch 1"
    report["operator"] = problem or "built"
    report["settings"] = {
        "fp32": "TF32 off",
        "fp16": "torch.autocast(float16); weights stay fp32",
        "compile": f"torch.compile(fullgraph=True, dynamic=False, backend={compiler!r})",
        "cudnn_benchmark": True,
        "timing": "CUDA events, variants in turn"
        if options.device == "cuda"
        else "wall clock, variants in turn",
        "tolerance": TOLERANCE,
    }
    report["sizes"] = []
    with torch.inference_mode():
        for size in QUICK_SIZES if options.quick else SIZES:
            report["sizes"].append(check_size(on_cpu, on_device, size, compiler, options))
            save()
    report["passed"] = all(
        variant["passed"] for size in report["sizes"] for variant in size["variants"].values()
    )
