"""From an ONNX graph to a TensorRT plan. The graph alone says what is computed in which type."""

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

# Names of `trt.HardwareCompatibilityLevel`, as far as a release has them.
HARDWARE_LEVELS = ("ampere_plus", "same_compute_capability")


@dataclass(frozen=True)
class Plan:
    """What TensorRT built.

    Attributes:
        data: for `Runtime.deserialize_cuda_engine`.
        seconds: that it took.
        warnings: what TensorRT had to say.
        remark: why the next build will be no quicker, if it will not.
    """

    data: bytes
    seconds: float
    warnings: tuple[str, ...]
    reason: str = ""


def timing_cache_path(key: EngineKey, folder: Path) -> Path:
    """Where measured kernel times are kept for the next build on this device with this TensorRT."""
    return folder / f"timing-{key.tensorrt}-{device_slug(key)}.cache"


def build_plan(
    graph: bytes,
    manifest: Manifest,
    key: EngineKey,
    timing_cache: Path,
    workspace: int | None = None,
    announce: Callable[[str], None] = lambda _: None,
) -> Plan:
    """Build an engine for the CUDA device that is current.

    Args:
        graph: an ONNX file.
        manifest: of its bundle.
        key: what to build for.
        timing_cache: read if it is there, and renewed; done without where that cannot be.
        workspace: bytes that a layer may use for intermediate results; None: all there are.
        announce: called with each phase.

    Raises:
        BackendError: TensorRT refuses the graph or an option, or runs out of memory.
        KeyboardInterrupt: Ctrl-C cancelled it.
    """
    import tensorrt as trt

    log = tensorrt_log()
    log.clear()
    if key.plugin_sha256:
        load_plugin(trt_library())
    try:
        builder = trt.Builder(log.logger)
    except Exception as error:  # pybind11: a factory that returned nothing
        raise BackendError(
            f"TensorRT cannot start here: {log.reason()}; does nvidia-smi show a device?"
        ) from error
    network = builder.create_network(_creation_flags())
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


def _creation_flags() -> int:
    """Strong typing, which releases from 11 on may not ask for, since they know nothing else."""
    import tensorrt as trt

    kinds = trt.NetworkDefinitionCreationFlag
    return 1 << int(kinds.STRONGLY_TYPED) if hasattr(kinds, "STRONGLY_TYPED") else 0


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
        # On by default, it would round the inputs of fp32 products to 10 bits: types are the graph's to choose.
        config.clear_flag(trt.BuilderFlag.TF32)
    if workspace is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, workspace)
    if hasattr(config, "profiling_verbosity"):
        config.profiling_verbosity = (
            trt.ProfilingVerbosity.DETAILED
        )  # for the account of layers; costs no time
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
    """Take a cache of earlier builds; one that cannot be read, is broken or of another device is begun anew."""
    kept: list[bytes] = []
    with contextlib.suppress(OSError):
        kept.append(path.read_bytes())
    for data in (*kept, b""):
        cache = config.create_timing_cache(data)
        if cache is not None and config.set_timing_cache(cache, False):
            return


def _write_timing(config: trt.IBuilderConfig, path: Path) -> str:
    """Why it cannot be, which is no reason to lose the plan; empty if it is."""
    cache = config.get_timing_cache()
    if cache is None:
        return ""
    try:
        with replacing(path) as temporary:
            temporary.write_bytes(bytes(cache.serialize()))
    except OutputError as error:
        return f"the timing cache is not kept, so the next build is no quicker: {error}"
    return ""
