"""Builds what the other sections call, into $IDOL_PLUGINS: the libraries, the stock-style kernel, the candidates."""

import os
import subprocess
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import pairwise
from pathlib import Path

from benchmarks.gpu.common import Options, Report, Save, say
from idol_plugins.build import SOURCES, build, cuda_compiler
from idol_plugins.errors import PluginError
from idol_plugins.headers import TENSORRT, find_headers

__all__ = ["CANDIDATES", "run"]

HERE = Path(__file__).parent
# Switches of deform_attn_variants.cu, as far as they are not the file's own.
CANDIDATES: dict[str, dict[str, int]] = {
    "tile": {},
    "redo": {"REDO": 1},
    "redo_256": {"REDO": 1, "BLOCK": 256},
    "redo_shuffle": {"REDO": 1, "SHARE": 0},
    "redo_2_chunks": {"REDO": 1, "CHUNKS": 2},
    "redo_rows": {"REDO": 1, "ORDER": 0},
    "redo_split_4": {"REDO": 1, "SPLIT": 4},
    "redo_split_auto": {"REDO": 1, "SPLIT": 0},
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
    make = partial(build, folder, cuda_architectures="native" if cuda else None, strict=True, jobs=jobs)
    report["passed"] = True
    try:
        libraries = make(tensorrt_include=find_headers(TENSORRT), tensorrt_host=not cuda)
    except PluginError as error:
        # Not all sections are to fail for a plugin that TensorRT's headers here do not compile.
        report["error"], report["passed"] = str(error)[-1500:], False
        libraries = make()
    report["libraries"] = [library.name for library in libraries]
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
