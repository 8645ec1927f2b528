"""Which stored engine fits this machine, with TensorRT and the driver as they are now."""

from collections.abc import Sequence
from pathlib import Path
from typing import cast

from idol_plugins.errors import PluginError
from idol_plugins.trt import trt_library
from idol_runtime.backends.base import FP32_GRAPHS, GraphChoice, meant
from idol_runtime.backends.choice import require_graph, verified_graphs
from idol_runtime.backends.cuda_device import CudaDevice
from idol_runtime.backends.tensorrt_api import import_tensorrt
from idol_runtime.bundle.bundle import Bundle, GraphName
from idol_runtime.bundle.certificates import ReducedName
from idol_runtime.bundle.engine_file import (
    EngineInfo,
    EngineKey,
    describe_mismatch,
    engines_of,
    graph_hash,
    read_info,
)
from idol_runtime.bundle.sealed_zip import sha256
from idol_runtime.errors import BackendError

__all__ = ["TARGETS", "choose_engine", "key_here"]

# Of graphs of fewer bits, those that TensorRT reads.
TARGETS = ("onnx", "trt")


def key_here(bundle: Bundle, graph: GraphName, device: CudaDevice) -> EngineKey:
    """What an engine of this graph for single frames must be good for, on this device with what is installed.

    Raises:
        BackendError: the graph is in another engine's dialect or was never verified, or the plugin that it needs is
            not built.
    """
    info = (
        None if graph in FP32_GRAPHS else require_graph(bundle, cast(ReducedName, graph), TARGETS, "TensorRT")
    )
    plugin = ""
    if graph == "plugin" or (info is not None and info.operator):
        try:
            plugin = sha256(trt_library().read_bytes())
        except PluginError as error:
            why = str(error).partition("; ")[0]
            raise BackendError(f"{why}; build it with: idol-deploy plugins build --cuda") from error
    return EngineKey(
        graph=graph,
        graph_sha256=graph_hash(bundle, graph),
        precision=bundle.manifest.precision if info is None else info.precision,
        batch=(1, 1, 1),
        plugin_sha256=plugin,
        tensorrt=str(import_tensorrt().__version__),
        gpu=device.name,
        capability=device.capability,
        driver=device.driver,
    )


def choose_engine(bundle: Bundle, graph: GraphChoice, device: CudaDevice) -> tuple[Path, EngineInfo]:
    """Of the engines that fit, the one that was fastest when it was built.

    Raises:
        BackendError: none fits; says why the newest does not, and names the command that builds one.
    """
    every: Sequence[GraphName] = (*FP32_GRAPHS, *verified_graphs(bundle, TARGETS))
    fitting: list[tuple[Path, EngineInfo]] = []
    why = ""
    for name in meant(graph, every):
        for path in engines_of(bundle, name):
            try:
                info = read_info(path)
                mismatch = describe_mismatch(info.key, key_here(bundle, name, device))
            except BackendError as error:  # the file is broken, or the plugin that it needs is not there
                why = why or str(error)
                continue
            if mismatch:
                why = why or f"the engine {path} does not fit: {mismatch}"
            else:
                fitting.append((path, info))
    if fitting:
        return min(fitting, key=lambda found: found[1].latency_ms)
    if why:
        raise BackendError(f"{why}; build it again: idol-deploy build {bundle.path}")
    raise BackendError(
        f"there is no engine of {bundle.path} here; build one: idol-deploy build {bundle.path}"
    )
