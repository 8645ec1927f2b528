"""Conformance checks of the TensorRT plugin with device pointers, without TensorRT.

On a CPU they check the plugin's build for tests.
"""

import os
from pathlib import Path

from benchmarks.gpu.common import Options, Report, Save
from idol_plugins.headers import TENSORRT, find_headers
from idol_plugins.memory import CudaMemory, HostMemory
from idol_plugins.trt.conformance import examine
from idol_plugins.trt.harness import PluginLibrary

__all__ = ["run"]


def run(options: Options, report: Report, save: Save) -> None:
    """Report the number of expectations of each check and those that failed."""
    if find_headers(TENSORRT) is None:
        report["skipped"] = f"TensorRT's headers are missing; set {TENSORRT.variable} to their folder"
        report["passed"] = True
        return
    cuda, folder = options.device == "cuda", Path(os.environ["IDOL_PLUGINS"])
    name = "libidol_deform_attn_trt.so" if cuda else "libidol_deform_attn_trt_host.so"
    with PluginLibrary(folder / name, harness=folder / "libidol_trt_harness.so") as library:
        report["headers"] = ".".join(map(str, library.headers))
        checks = examine(library, CudaMemory() if cuda else HostMemory())
    report["checks"] = {check.name: {"count": check.count, "failures": check.failures} for check in checks}
    report["passed"] = not any(check.failures for check in checks)
    save()
