"""The build of an engine from a bundle: build, compare with PyTorch's golden outputs, and store if they match."""

import contextlib
import json
import shutil
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import cast

import msgspec
import numpy as np

from idol_export.engine.network import HARDWARE_LEVELS, Plan, build_plan, timing_cache_path
from idol_plugins.errors import PluginError
from idol_plugins.trt import trt_library
from idol_runtime.backends.base import GraphChoice
from idol_runtime.backends.cuda_device import CudaDevice, device_index
from idol_runtime.backends.engine_choice import required_key
from idol_runtime.backends.opening import require_graph
from idol_runtime.backends.tensorrt import TensorRTBackend
from idol_runtime.backends.tensorrt_api import import_tensorrt
from idol_runtime.bundle.bundle import Bundle, GraphName, StageError
from idol_runtime.bundle.certificates import current_name
from idol_runtime.bundle.engine_file import (
    ENGINE_SCHEMA,
    EngineInfo,
    EngineKey,
    describe_mismatch,
    engine_folder,
    engine_path,
    engines_of,
    read_info,
    read_plan,
    write_engine,
)
from idol_runtime.bundle.sealed_zip import sha256
from idol_runtime.errors import BackendError, ConfigError, OutputError, ParityError
from idol_runtime.files import writable_target
from idol_runtime.pipeline import compare_golden

__all__ = ["BuildOptions", "Built", "build", "count_layers"]

_TIMED_SECONDS, _MAX_TIMED = 2.0, 60


@dataclass(frozen=True)
class BuildOptions:
    """Options of `build`.

    Attributes:
        graph: Graph to build; `auto`: `plugin` if the operator's library is built, else `tensorrt`.
        device: `cuda` or `cuda:N`.
        max_batch: Largest number of frames at once; more than 1 needs a graph with a dynamic batch.
        workspace: Limit in MiB for a layer's intermediate results; None: no limit.
        hardware_compat: `none`, or one of `HARDWARE_LEVELS` to run on other devices as well, a little slower.
        version_compat: True to run in newer releases of the same major version as well.
        force: True to build even if the stored engine can be reused.
        folder: Output folder; None: the folder that `run` searches.
    """

    graph: GraphChoice = "auto"
    device: str = "cuda"
    max_batch: int = 1
    workspace: int | None = None
    hardware_compat: str = "none"
    version_compat: bool = False
    force: bool = False
    folder: Path | None = None

    def __post_init__(self) -> None:
        if self.hardware_compat not in ("none", *HARDWARE_LEVELS):
            raise ConfigError(
                f"unknown hardware compatibility {self.hardware_compat!r}; choose one of: "
                f"none, {', '.join(HARDWARE_LEVELS)}"
            )
        if self.max_batch < 1 or (self.workspace is not None and self.workspace < 1):
            raise ConfigError(
                f"--max-batch and --workspace must be 1 or more, got {self.max_batch} and {self.workspace}"
            )


@dataclass(frozen=True)
class Built:
    """A stored and verified engine.

    Attributes:
        path: Path of the engine file.
        info: Description of the engine.
        reason: Note for the user: why the old engine was replaced, that it was reused, or why the timing cache could
            not be stored.
        warnings: Warnings of TensorRT.
    """

    path: Path
    info: EngineInfo
    reason: str = ""
    warnings: tuple[str, ...] = ()


def build(bundle: Bundle, options: BuildOptions, announce: Callable[[str], None] = lambda _: None) -> Built:
    """Build a verified engine for this machine, unless a usable one is stored.

    Args:
        bundle: Open bundle.
        options: Options of the build.
        announce: Called with a line before each step.

    Raises:
        MissingDependencyError: TensorRT is not installed.
        ConfigError: The bundle has no such graph or no dynamic batch.
        OutputError: The folder cannot be written, or the disk is full.
        BackendError: There is no device, the plugin is not built, the graph is not for TensorRT or was never verified,
            or TensorRT reports an error.
        ParityError: The engine's outputs differ from PyTorch's; the engine is not stored.
    """
    import_tensorrt()
    graph = _choose_graph(bundle, options, announce)
    folder = options.folder or engine_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(
            f"cannot make the folder {folder}: {error.strerror or error}; choose another --into"
        ) from error
    device = CudaDevice(device_index(options.device))
    try:
        key = _key(bundle, graph, device, options)
        path = engine_path(key, folder)
        stored = "" if options.force else _check_stored(bundle, key, path, device, announce)
        if isinstance(stored, EngineInfo):
            return Built(path, stored, "the stored engine fits, and its outputs match the golden frame")
        if stored:
            announce(f"building again, because {stored}")
        data = bundle.graph(graph)
        _check_target(path, data)
        workspace = None if options.workspace is None else options.workspace * 2**20
        timing_cache = timing_cache_path(key, folder)
        with device.active():
            plan = build_plan(data, bundle.manifest, key, timing_cache, workspace, announce)
        announce("comparing the engine with PyTorch's golden outputs")
        info = _verify_and_store(plan, bundle, key, path, device)
        return Built(path, info, "; ".join(filter(None, (stored, plan.reason))), plan.warnings)
    finally:
        device.close()


def _verify_and_store(
    plan: Plan, bundle: Bundle, key: EngineKey, path: Path, device: CudaDevice
) -> EngineInfo:
    with contextlib.closing(TensorRTBackend(plan.data, key, bundle, device)) as backend:
        info = EngineInfo(
            schema_version=ENGINE_SCHEMA,
            key=key,
            plan_sha256=sha256(plan.data),
            plan_bytes=len(plan.data),
            golden=_verify(backend, bundle, key),
            created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
            build_seconds=round(plan.seconds, 3),
            latency_ms=_latency(backend, bundle),
            reason=backend.reason,
        )
        layers = backend.layers()
    write_engine(path, info, plan.data, layers)
    return info


def _choose_graph(bundle: Bundle, options: BuildOptions, announce: Callable[[str], None]) -> GraphName:
    """Return the graph to build; by default that with our operator, if the bundle has it and its library is built."""
    offered = (*bundle.certificates.by_graph(), *bundle.manifest.precisions)
    if options.graph != "auto" and options.graph != "fp32":
        named = cast(GraphName, current_name(options.graph))
        if named not in offered:
            raise ConfigError(f"{bundle.path} has no graph {named!r}; choose one of: {', '.join(offered)}")
        return named
    graph: GraphName = "plugin"
    reason = "the library of our operator is built"
    if "plugin" not in offered:
        graph, reason = "tensorrt", "the bundle has no graph with our operator"
    elif "tensorrt" in offered:
        try:
            trt_library()
        except PluginError as error:
            graph, reason = "tensorrt", str(error).partition("; ")[0]
    if graph not in offered:
        raise ConfigError(
            f"{bundle.path} has neither a plugin nor a tensorrt graph, and TensorRT 10.13 to 11.1 compute the "
            "portable graph of older bundles wrongly; export it again"
        )
    announce(f"building the {graph} graph: {reason}")
    return graph


def _key(bundle: Bundle, graph: GraphName, device: CudaDevice, options: BuildOptions) -> EngineKey:
    if options.max_batch > 1 and not bundle.manifest.dynamic_batch:
        raise ConfigError(
            f"{bundle.path} takes one frame at a time; export it with --dynamic-batch, or leave out --max-batch"
        )
    require_graph(bundle, graph, TensorRTBackend)
    return msgspec.structs.replace(
        required_key(bundle, graph, device),
        batch=(1, options.max_batch, options.max_batch),
        hardware_compat=options.hardware_compat,
        version_compat=options.version_compat,
    )


def _check_stored(
    bundle: Bundle, key: EngineKey, path: Path, device: CudaDevice, announce: Callable[[str], None]
) -> EngineInfo | str:
    """Return the stored engine's description if it can be reused, else the reason why not (empty: none is stored)."""
    if not path.is_file():
        # Report how the newest engine of another device or another batch differs from the requested one.
        for other in engines_of(bundle, key.graph, path.parent):
            with contextlib.suppress(BackendError):
                if mismatch := describe_mismatch(read_info(other).key, key):
                    return f"the engine {other} does not fit: {mismatch}"
        return ""
    try:
        info = read_info(path)
        if mismatch := describe_mismatch(info.key, key):
            return f"the engine {path} does not fit: {mismatch}"
        announce("comparing the stored engine with PyTorch's golden outputs")
        backend = TensorRTBackend(read_plan(path, info), info.key, bundle, CudaDevice(device.index))
        with contextlib.closing(backend):
            _verify(backend, bundle, info.key)
    except (BackendError, ParityError) as error:
        return str(error)
    return info


def _verify(backend: TensorRTBackend, bundle: Bundle, key: EngineKey) -> tuple[StageError, ...]:
    """Return the largest errors of a plain run, of a recorded run, and of the largest batch.

    Raises:
        ParityError: An output differs from PyTorch's by more than its tolerance.
    """
    golden_frame, tolerances, max_batch = (
        bundle.golden_frame(),
        bundle.tolerances(key.graph, "tensorrt"),
        key.batch[2],
    )
    # Each size runs twice, because the backend records the second of two equal runs as a CUDA graph.
    runs = [
        compare_golden(backend, golden_frame, tolerances, copies)
        for copies in (1, 1, *((max_batch, max_batch) if max_batch > 1 else ()))
    ]
    largest = tuple(
        max(stages, key=lambda stage: (not stage.passed, stage.error)) for stages in zip(*runs, strict=True)
    )
    for stage in largest:
        if not stage.passed:
            fix = (
                "check the plugin with: python -m idol_plugins.trt.conformance"
                if key.plugin_sha256
                else "build the graph with our operator: --graph plugin"
            )
            raise ParityError(
                stage.stage,
                f"the engine of TensorRT {key.tensorrt} differs from PyTorch on the golden frame and is not stored: "
                f"{stage.stage} is off by {stage.error:.1e} (allowed {stage.tolerance:.0e}); {fix}",
            )
    return largest


def _latency(backend: TensorRTBackend, bundle: Bundle) -> tuple[float, float]:
    """Return median and 95th percentile in ms of single frames; `_verify` was the warm-up."""
    frame = np.zeros((1, *bundle.manifest.network_size, 3), np.uint8)
    times: list[float] = []
    while len(times) < _MAX_TIMED and (len(times) < 10 or sum(times) < 1e3 * _TIMED_SECONDS):
        started = time.perf_counter()
        backend.infer(frame)
        times.append(1e3 * (time.perf_counter() - started))
    median, late = np.percentile(times, (50, 95))
    return round(float(median), 3), round(float(late), 3)


def _check_target(path: Path, graph: bytes) -> None:
    """Check, before minutes of building, that the engine can be written."""
    writable_target(path)
    free = shutil.disk_usage(path.parent).free
    if free < len(graph) // 4:  # an engine contains all weights, each in at least 8 bits instead of 32
        raise OutputError(
            f"cannot write {path}: the disk is full; free {len(graph) / 2**20:.0f} MiB, or choose another --into"
        )


def count_layers(layers: str) -> dict[str, int]:
    """Count the layers of an engine by type, most frequent first.

    Args:
        layers: JSON of `IEngineInspector`; layers of an engine that was built without details are strings.
    """
    try:
        items = list(json.loads(layers)["Layers"])
    except (ValueError, KeyError, TypeError, RecursionError):  # TensorRT does not specify the format
        return {}
    kinds = (str(item.get("LayerType", "unknown")) if isinstance(item, dict) else "unknown" for item in items)
    return dict(Counter(kinds).most_common())
