"""Outputs, latency and memory of the network on a CUDA device.

Runs the published ytvis19_r50 network with reference weights on one frame at 384x640 and 736x1280: PyTorch eager and
torch.compile, in fp32 with TF32 off and under fp16 autocast, with the published attention and, if it is built, with the
compiled operator. The six outputs of every variant are compared with those of the CPU in fp32.

Fails if an fp32 variant exceeds the tolerance, if the norm of an fp16 variant's logits or embeddings differs by more
than 10 %, or if a variant raises an error.
"""

import copy
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import TypeAlias

import torch
from torch import Tensor, nn

from benchmarks.gpu.common import Options, Report, Save, interleaved_ms, say
from idol_deploy.config import IdolConfig, preset
from idol_deploy.model.deform_op import operator_problem, use_operator
from idol_deploy.model.geometry import Geometry, build_geometry
from idol_deploy.model.idol import Idol
from idol_deploy.weights.reference import make_video, reference_model

__all__ = ["Network", "compare", "frame_of", "within_tolerance", "network_config", "run"]

NAMES = ("logits", "boxes", "embeddings", "mask_features", "mask_params", "mask_reference")
SIZES = ((384, 640), (736, 1280))
QUICK_SIZES = ((64, 96), (96, 64))
# fp32 sums on a GPU have another order: 1e-6 to 1e-5 after 60 layers. TF32 or a wrong kernel causes far more.
TOLERANCE = 1e-3
MAGNITUDE = 0.1
OPERATOR = "_operator"  # suffix of the variants with the compiled operator

Outputs: TypeAlias = tuple[Tensor, ...]
Variant: TypeAlias = Callable[[Tensor], Outputs]


class Network(nn.Module):
    """The network at one size, with its geometry computed once as in the exported graph."""

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
        """Return the six outputs."""
        with torch.autocast(self.device_type, torch.float16, enabled=self.half_precision):
            sources = self.model.neck(self.model.backbone(images))
            memory = self.model.transformer.encode(sources, self.geometry)
            decoder = self.model.transformer.decode(memory, self.geometry)
            output = self.model.predict(memory, decoder, self.geometry)
        return tuple(getattr(output, name) for name in NAMES)


def frame_of(model: Idol, size: tuple[int, int]) -> Tensor:
    """Return a synthetic frame, [1, 3, H, W], normalised."""
    pixels = torch.from_numpy(make_video(1, *size, seed=0)).float()
    settings = model.config.preprocessing
    mean, std = (torch.tensor(v)[None, :, None, None] for v in (settings.mean, settings.std))
    return (pixels - mean) / std


def compare(outputs: Outputs, expected: Outputs) -> Report:
    """Return each output's relative error in the Euclidean norm and the ratio of the norms."""
    errors, ratios = {}, {}
    for name, a, b in zip(NAMES, outputs, expected, strict=True):
        a, b = a.double().cpu(), b.double()
        errors[name] = float((a - b).norm() / b.norm())
        ratios[name] = float(a.norm() / b.norm())
    return {"relative_error": errors, "norm_ratio": ratios}


def within_tolerance(report: Report, half: bool) -> bool:
    """Return whether a comparison is within its tolerance; False for NaN."""
    errors, ratios = report["relative_error"], report["norm_ratio"]
    if half:
        return all(abs(ratios[name] - 1) <= MAGNITUDE for name in ("logits", "embeddings"))
    return all(error <= TOLERANCE for error in errors.values())


def network_config(options: Options) -> IdolConfig:
    """Return the published network's configuration; in a dry run with one layer of each kind."""
    config = preset("ytvis19_r50")
    if not options.quick:
        return config
    return replace(config, model=replace(config.model, encoder_layers=1, decoder_layers=1))


def variants(models: dict[str, Idol], size: tuple[int, int], compiler: str) -> dict[str, Variant]:
    """Return eager and compiled networks in fp32 and fp16, without and with the operator, by name."""
    torch.compiler.reset()  # otherwise the second size counts as a recompilation of the first
    networks: dict[str, Variant] = {}
    for half in (False, True):
        for suffix, model in models.items():
            kind = ("fp16" if half else "fp32") + suffix
            networks[f"eager_{kind}"] = Network(model, size, half).eval()
            networks[f"compile_{kind}"] = torch.compile(
                Network(model, size, half).eval(), fullgraph=True, dynamic=False, backend=compiler
            )
    return networks


def peak_mib(run: Variant, images: Tensor) -> float | None:
    """Return the peak memory of tensors in MiB during one call, weights included; None without a GPU."""
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
    """Measure error, latency (interleaved) and memory of every variant at one size."""
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
            report[name]["passed"] = within_tolerance(report[name], "fp16" in name)
            report[name]["peak_mib"] = peak_mib(run_variant, images)
        except Exception as error:  # noqa: BLE001 - a failed compilation is a result and does not end the run
            report[name] = {"passed": False, "error": f"{type(error).__name__}: {error}"[:500]}
            continue
        ready[name] = run_variant
    calls = {name: partial(network, images) for name, network in ready.items()}
    for name, milliseconds in interleaved_ms(calls, options).items():
        report[name]["ms"] = milliseconds
    return {"size": list(size), "repeats": options.repeats, "variants": report, "gain": gains(report)}


def gains(report: dict[str, Report]) -> dict[str, float]:
    """Return the time without the operator divided by the time with it, by variant."""
    ratios = {}
    for name, variant in report.items():
        ours = report.get(name + OPERATOR, {})
        if "ms" in ours and "ms" in variant:
            ratios[name] = round(variant["ms"]["median"] / ours["ms"]["median"], 2)
    return ratios


def run(options: Options, report: Report, save: Save) -> None:
    """Check every size, the smaller first."""
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
        "timing": f"{'CUDA events' if options.device == 'cuda' else 'wall clock'}, variants in turn",
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
