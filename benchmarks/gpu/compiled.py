"""Compilation of the network with `torch.compile`, and the section that fills the compiler's cache in the background.

Compiling takes a minute per network on the CPU. The section runs beside the sections without timings, so that `frames`
finds the kernels in the cache of the same folder (`TORCHINDUCTOR_CACHE_DIR`).
"""

import time
from collections.abc import Callable
from typing import Any

import torch

from benchmarks.gpu.common import Options, Report, Save, say
from benchmarks.gpu.network import (
    COMPILED_CASE,
    KINDS,
    Network,
    compiled_kinds,
    frames_of,
    model_of,
    prepared,
)

__all__ = ["compiled", "run"]


def compiled(network: Network, options: Options) -> Callable[..., Any]:
    """Compile a network; in a dry run without code generation."""
    torch.compiler.reset()  # otherwise a second network counts as a recompilation of the first
    backend = "eager" if options.quick else "inductor"
    return torch.compile(network, fullgraph=True, dynamic=False, backend=backend)  # type: ignore[no-any-return, unused-ignore]


def run(options: Options, report: Report, save: Save) -> None:
    """Compile the networks that `frames` measures and report the seconds of each first call."""
    case = COMPILED_CASE[options.quick]
    model = model_of(case.preset, options)
    images = frames_of(model, case).to(options.device)
    report["first_call_s"] = {}
    for name in compiled_kinds(options.quick):
        start = time.perf_counter()
        with KINDS[name].active(), torch.inference_mode():
            compiled(prepared(model, case, KINDS[name], options), options)(images)
        report["first_call_s"][name] = round(time.perf_counter() - start, 1)
        say(f"compiled {case.name}, {name}: {report['first_call_s'][name]} s")
        save()
    report["passed"] = True
