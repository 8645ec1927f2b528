"""The build of a TensorRT plan from an ONNX graph. The graph alone defines the type of every operation."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from idol_export.engine.progress import watched
from idol_plugins.trt import trt_library
from idol_runtime.backends.tensorrt_api import load_plugin, tensorrt_log
from idol_runtime.bundle.bundle import Manifest
from idol_runtime.bundle.engine_file import EngineKey, device_slug
from idol_runtime.errors import BackendError, OutputError
from idol_runtime.files import replacing

if TYPE_CHECKING:
    import tensorrt as trt

__all__ = ["HARDWARE_LEVELS", "Plan", "build_plan", "timing_cache_path"]

# Names of `trt.HardwareCompatibilityLevel`; not every release has all of them.
HARDWARE_LEVELS = ("ampere_plus", "same_compute_capability")


@dataclass(frozen=True)
class Plan:
    """A plan that TensorRT built.

    Attributes:
        data: Bytes for `Runtime.deserialize_cuda_engine`.
        seconds: Duration of the build.
        warnings: Warnings of TensorRT.
        reason: Reason why the timing cache could not be stored; empty if it was.
    """

    data: bytes
    seconds: float
    warnings: tuple[str, ...]
    reason: str = ""


def timing_cache_path(key: EngineKey, folder: Path) -> Path:
    """Return the file for measured kernel times, which make the next build on this device faster."""
    return folder / f"timing-{key.tensorrt}-{device_slug(key)}.cache"


def build_plan(
    graph: bytes,
    manifest: Manifest,
    key: EngineKey,
    timing_cache: Path,
    workspace: int | None = None,
    announce: Callable[[str], None] = lambda _: None,
) -> Plan:
    """Build a plan for the current CUDA device.

    Args:
        graph: Content of an ONNX file.
        manifest: Manifest of the bundle.
        key: Device, versions and options to build for.
        timing_cache: File of the timing cache, read if present and then updated; errors are not fatal.
        workspace: Limit in bytes for a layer's intermediate results; None: no limit.
        announce: Called with each phase.

    Raises:
        BackendError: TensorRT refuses the graph or an option, or runs out of memory.
        KeyboardInterrupt: Ctrl-C cancelled the build.
    """
    import tensorrt as trt

    log = tensorrt_log()
    log.clear()
    if key.plugin_sha256:
        load_plugin(trt_library())
    try:
        builder = trt.Builder(log.logger)
    except Exception as error:  # pybind11 raises if the factory returns nothing
        raise BackendError(
            f"TensorRT cannot start here: {log.reason()}; check that nvidia-smi shows a device"
        ) from error
    # Strong typing. TensorRT 11 has no flag, because its networks are always strongly typed.
    kinds = trt.NetworkDefinitionCreationFlag
    typed = 1 << int(kinds.STRONGLY_TYPED) if hasattr(kinds, "STRONGLY_TYPED") else 0
    network = builder.create_network(typed)
    _parse(network, graph)
    config = builder.create_builder_config()
    _configure(config, key, workspace)
    if manifest.dynamic_batch:
        _add_profile(builder, config, manifest, key)
    _read_timing(config, timing_cache)
    started = time.perf_counter()
    with watched(config, announce):
        plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise BackendError(f"TensorRT {key.tensorrt} cannot build the engine: {log.reason()}")
    seconds = time.perf_counter() - started
    reason = _write_timing(config, timing_cache)
    return Plan(bytes(plan), seconds, tuple(log.warnings), reason)


def _parse(network: trt.INetworkDefinition, graph: bytes) -> None:
    import tensorrt as trt

    parser = trt.OnnxParser(network, tensorrt_log().logger)
    if parser.parse(graph):
        return
    reasons = [parser.get_error(index).desc() for index in range(parser.num_errors)]
    reason = " ".join((reasons[0] if reasons else tensorrt_log().reason()).split())[:300]
    raise BackendError(f"TensorRT {trt.__version__} refuses the graph: {reason}")


def _configure(config: trt.IBuilderConfig, key: EngineKey, workspace: int | None) -> None:
    import tensorrt as trt

    if hasattr(trt.BuilderFlag, "TF32"):
        # TF32 is on by default and rounds the inputs of fp32 products to 10 bits; the graph defines the types.
        config.clear_flag(trt.BuilderFlag.TF32)
    if workspace is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, workspace)
    if hasattr(config, "profiling_verbosity"):
        # The list of layers needs this setting, which costs no time.
        config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    if key.version_compat:
        if not hasattr(trt.BuilderFlag, "VERSION_COMPATIBLE"):
            raise BackendError(
                f"TensorRT {key.tensorrt} has no version compatibility; leave out --version-compat"
            )
        config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
    if key.hardware_compat != "none":
        level = getattr(getattr(trt, "HardwareCompatibilityLevel", None), key.hardware_compat.upper(), None)
        if level is None:
            raise BackendError(
                f"TensorRT {key.tensorrt} has no --hardware-compat {key.hardware_compat}; leave it out"
            )
        config.hardware_compatibility_level = level


def _add_profile(
    builder: trt.Builder, config: trt.IBuilderConfig, manifest: Manifest, key: EngineKey
) -> None:
    profile = builder.create_optimization_profile()
    for tensor in manifest.inputs:
        least, best, most = ((frames, *tensor.shape[1:]) for frames in key.batch)
        profile.set_shape(tensor.name, least, best, most)
    if config.add_optimization_profile(profile) < 0:
        raise BackendError(
            f"TensorRT refuses batches of {key.batch}: {tensorrt_log().reason()}; use another --max-batch"
        )


def _read_timing(config: trt.IBuilderConfig, path: Path) -> None:
    """Use the timing cache of earlier builds, or an empty one if that is unreadable, broken or of another device."""
    contents = [b""]
    with contextlib.suppress(OSError):
        contents.insert(0, path.read_bytes())
    for data in contents:
        cache = config.create_timing_cache(data)
        if cache is not None and config.set_timing_cache(cache, False):
            return


def _write_timing(config: trt.IBuilderConfig, path: Path) -> str:
    """Store the timing cache; return an empty text, or the reason of a failure, which must not lose the plan."""
    cache = config.get_timing_cache()
    if cache is None:
        return ""
    try:
        with replacing(path) as temporary:
            temporary.write_bytes(bytes(cache.serialize()))
    except OutputError as error:
        return f"the timing cache is not stored, so the next build is not faster: {error}"
    return ""
