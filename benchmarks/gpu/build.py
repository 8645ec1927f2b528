"""Build of the libraries that the other sections call, and of the kernels to compare with, into $IDOL_PLUGINS."""

import os
import subprocess
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import pairwise
from pathlib import Path

from benchmarks.gpu.common import Options, Report, Save
from idol_plugins.build import SOURCES, build, cuda_compiler
from idol_plugins.errors import PluginError
from idol_plugins.headers import ONNXRUNTIME, TENSORRT, find_headers

__all__ = ["run"]

STOCK = "stock_deform_attn"


def compile_stock() -> str:
    """Compile the stock-style kernel and the gather for the installed device and return ptxas' report."""
    sources = [str(Path(__file__).with_name(f"{name}.cu")) for name in (STOCK, "gather")]
    library = Path(os.environ["IDOL_PLUGINS"]) / f"lib{STOCK}.so"
    command = [cuda_compiler(), "-std=c++17", "-O3", "-arch=native", "-shared", "-Xcompiler=-fPIC"]
    command += ["-lineinfo", "-Werror", "all-warnings", "-Xptxas", "-v", f"-I{SOURCES}"]
    command += [*sources, "-o", str(library)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{STOCK}: " + "\n".join((done.stdout + done.stderr).splitlines()[-15:]))
    return done.stderr


def summarise(ptxas_report: str) -> Report:
    """Return the number of kernels, and the largest numbers of registers and of spilled bytes."""
    words = ptxas_report.replace(",", " ").split()
    used = [int(b) for a, b in pairwise(words) if a == "Used"]
    spilled = [int(words[i]) for i in range(len(words) - 2) if words[i + 1 : i + 3] == ["bytes", "spill"]]
    return {"kernels": len(used), "registers": max(used, default=0), "spilled": max(spilled, default=0)}


def run(options: Options, report: Report, save: Save) -> None:
    """Build the libraries for this device and, on a CUDA device, the stock-style kernel beside them."""
    folder, cuda = Path(os.environ["IDOL_PLUGINS"]), options.device == "cuda"
    make = partial(
        build,
        folder,
        cuda_architectures="native" if cuda else None,
        strict=True,
        jobs=os.cpu_count() or 2,
    )
    report["passed"] = True
    with ThreadPoolExecutor(1) as pool:
        folder.mkdir(parents=True, exist_ok=True)
        stock = pool.submit(compile_stock) if cuda else None
        try:
            libraries = make(
                ort_include=find_headers(ONNXRUNTIME),
                tensorrt_include=find_headers(TENSORRT),
                tensorrt_host=not cuda,
            )
        except PluginError as error:
            # Most sections do not need the engines' adapters, which these headers may not compile.
            report["error"], report["passed"] = str(error)[-1500:], False
            libraries = make()
    report["libraries"] = [library.name for library in libraries]
    save()
    if stock is not None:
        report["compiled"] = {STOCK: summarise(stock.result())}
