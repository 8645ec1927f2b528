"""Builds what the other sections call, into $IDOL_PLUGINS: the libraries, the stock-style kernel, the candidates."""

import os
import subprocess
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

from gpu_common import Options, Report, Save, say

from idol_plugins.build import SOURCES, build, cuda_compiler
from idol_plugins.headers import TENSORRT, find_headers

__all__ = ["CANDIDATES", "run"]

HERE = Path(__file__).parent
# Switches of deform_attn_variants.cu, as far as they are not the file's own.
CANDIDATES: dict[str, dict[str, int]] = {
    "tile": {},
    "tile_80_registers": {"RESIDENT": 6},
    "tile_borrow": {"OUTSIDE": 0},
    "tile_redo": {"OUTSIDE": 2},
    "tile_redo_80_registers": {"OUTSIDE": 2, "RESIDENT": 6},
    "tile_redo_64_registers": {"OUTSIDE": 2, "RESIDENT": 8},
    "tile_redo_256": {"OUTSIDE": 2, "BLOCK": 256},
    "tile_redo_shuffle": {"OUTSIDE": 2, "SHARE": 0},
    "tile_redo_cache": {"OUTSIDE": 2, "CACHE": 1},
    "tile_redo_4_lanes": {"OUTSIDE": 2, "LANES": 4},
    "tile_redo_2_lanes": {"OUTSIDE": 2, "LANES": 2},
    "rows_redo": {"OUTSIDE": 2, "ORDER": 0},
    "head_redo": {"OUTSIDE": 2, "ORDER": 1},
    "split_2": {"OUTSIDE": 2, "SPLIT": 2},
    "split_4": {"OUTSIDE": 2, "SPLIT": 4},
    "split_8": {"OUTSIDE": 2, "SPLIT": 8},
    "split_8_not_read": {"SPLIT": 8},
    "split_auto": {"OUTSIDE": 2, "SPLIT": 0},
}


def compile_cuda(source: str, name: str, *flags: str) -> str:
    """Compile one source to a library of that name for the device that is here; ptxas' report."""
    into = Path(os.environ["IDOL_PLUGINS"]) / f"lib{name}.so"
    command = [
        cuda_compiler(),
        "-std=c++17",
        "-O3",
        "-arch=native",
        "-shared",
        "-Xcompiler=-fPIC",
        "-lineinfo",
    ]
    command += ["-Werror", "all-warnings", "-Xptxas", "-v", f"-I{SOURCES}", *flags]
    done = subprocess.run(
        [*command, str(HERE / source), "-o", str(into)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"{name}: " + "\n".join((done.stdout + done.stderr).splitlines()[-15:]))
    return done.stderr


def summary(report: str) -> Report:
    """Of ptxas' report: kernels, registers and spilled bytes at most."""
    words = report.replace(",", " ").split()
    used = [int(b) for a, b in pairwise(words) if a == "Used"]
    spilled = [int(words[i]) for i in range(len(words) - 2) if words[i + 1 : i + 3] == ["bytes", "spill"]]
    return {"kernels": len(used), "registers": max(used, default=0), "spilled": max(spilled, default=0)}


def run(options: Options, report: Report, save: Save) -> None:
    """The libraries first; a candidate that does not compile is reported, and missing from the race."""
    folder, cuda = Path(os.environ["IDOL_PLUGINS"]), options.device == "cuda"
    jobs = os.cpu_count() or 2
    libraries = build(
        folder,
        cuda_architectures="native" if cuda else None,
        tensorrt_include=find_headers(TENSORRT),
        tensorrt_host=not cuda,
        strict=True,
        jobs=jobs,
    )
    report["libraries"] = [library.name for library in libraries]
    report["passed"] = True
    save()
    if not cuda:
        return
    work: dict[str, tuple[str, list[str]]] = {"stock_deform_attn": ("stock_deform_attn.cu", [])}
    for name, switches in CANDIDATES.items():
        flags = [f"-DIDOL_{switch}={value}" for switch, value in switches.items()]
        work[f"candidate_{name}"] = ("deform_attn_variants.cu", flags)
    say(f"compiling {len(work)} more with {jobs} compilers")
    with ThreadPoolExecutor(jobs) as pool:
        found = {
            name: pool.submit(compile_cuda, source, name, *flags) for name, (source, flags) in work.items()
        }
    compiled: Report = {}
    for name, future in found.items():
        try:
            compiled[name] = summary(future.result())
        except RuntimeError as error:  # noqa: PERF203
            compiled[name] = {"error": str(error)}
            report["passed"] = False
    report["compiled"] = compiled
