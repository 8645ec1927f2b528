"""Builds what the other sections call, into $IDOL_PLUGINS: the libraries, the stock-style kernel, the candidates."""

import os
import subprocess
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

from gpu_common import Options, Report, Save, say

from idol_plugins.build import SOURCES, build, cuda_compiler

__all__ = ["CANDIDATES", "run"]

HERE = Path(__file__).parent
# By name: IDOL_ORDER, IDOL_SHARE, IDOL_LANES, IDOL_BLOCK of deform_attn_variants.cu.
CANDIDATES = {
    "rows_shuffle": (0, 0, 0, 128),
    "rows_shared": (0, 1, 0, 128),
    "head_shuffle": (1, 0, 0, 128),
    "head_shared": (1, 1, 0, 128),
    "head_shared_256": (1, 1, 0, 256),
    "tile_shuffle": (2, 0, 0, 128),
    "tile_shared": (2, 1, 0, 128),
    "tile_shared_256": (2, 1, 0, 256),
    "tile_shared_512": (2, 1, 0, 512),
    "tile_slow_heads": (3, 1, 0, 256),
    "tile_4_lanes": (2, 1, 4, 128),
    "tile_2_lanes": (2, 1, 2, 128),
}
_SWITCHES = ("IDOL_ORDER", "IDOL_SHARE", "IDOL_LANES", "IDOL_BLOCK")


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
    libraries = build(folder, cuda_architectures="native" if cuda else None, strict=True, jobs=jobs)
    report["libraries"] = [library.name for library in libraries]
    report["passed"] = True
    save()
    if not cuda:
        return
    work = {"stock_deform_attn": ("stock_deform_attn.cu", [])}
    for name, values in CANDIDATES.items():
        flags = [f"-D{switch}={value}" for switch, value in zip(_SWITCHES, values, strict=True)]
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
