"""The stored TensorRT engine that fits the device, TensorRT and the driver."""

from pathlib import Path
from typing import cast

from idol_plugins.errors import PluginError
from idol_plugins.trt import trt_library
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

__all__ = ["choose_engine", "required_key"]


def required_key(bundle: Bundle, graph: GraphName, device: CudaDevice) -> EngineKey:
    """Return the key that an engine of this graph for single frames needs on this device.

    Raises:
        BackendError: the graph needs the plugin, and the plugin is not built.
    """
    info = bundle.manifest.precisions.get(cast(ReducedName, graph))
    plugin = ""
    if graph == "plugin" or (info is not None and info.operator):
        try:
            plugin = sha256(trt_library().read_bytes())
        except PluginError as error:
            raise BackendError(str(error)) from error
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


def choose_engine(bundle: Bundle, graph: GraphName, device: CudaDevice) -> tuple[Path, EngineInfo]:
    """Return the fitting engine of a graph with the lowest latency, measured when it was built.

    Raises:
        BackendError: no engine fits; the message gives the newest engine's mismatch and the build command.
    """
    fitting: list[tuple[Path, EngineInfo]] = []
    why = ""
    for path in engines_of(bundle, graph):
        try:
            info = read_info(path)
            mismatch = describe_mismatch(info.key, required_key(bundle, graph, device))
        except BackendError as error:  # the file is broken, or the plugin is not built
            why = why or str(error)
            continue
        if mismatch:
            why = why or f"the engine {path} does not fit: {mismatch}"
        else:
            fitting.append((path, info))
    if fitting:
        return min(fitting, key=lambda engine: engine[1].latency_ms)
    if why:
        raise BackendError(f"{why}; build it again: idol-deploy build {bundle.path}")
    raise BackendError(f"no engine of {bundle.path} is stored; build one: idol-deploy build {bundle.path}")
