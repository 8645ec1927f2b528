"""From a bundle to a stored engine: build, compare with PyTorch's golden outputs, and only then store."""

import contextlib
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

import msgspec
import numpy as np

from idol_export.engine.network import HARDWARE_LEVELS, Plan, build_plan, timing_cache_path
from idol_runtime.backends.base import GraphChoice
from idol_runtime.backends.cuda_device import CudaDevice, device_index
from idol_runtime.backends.engine_choice import key_here
from idol_runtime.backends.tensorrt import TensorRTBackend
from idol_runtime.backends.tensorrt_api import import_tensorrt
from idol_runtime.bundle.bundle import Bundle, GraphName, StageError
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

__all__ = ["BuildOptions", "Built", "build"]

_TIMED_SECONDS, _MOST_TIMED = 2.0, 60


@dataclass(frozen=True)
class BuildOptions:
    """What to build.

    Attributes:
        graph: which; `auto` is the plugin graph. The portable one is built only when asked for: TensorRT 10.13 to
            11.1 compute its GridSample wrongly.
        device: `cuda` or `cuda:N`.
        max_batch: most frames at once; the graph must have a dynamic batch for more than 1.
        workspace: MiB that a layer may use; None: all there are.
        hardware_compat: `none`, or one of `HARDWARE_LEVELS`: run on other devices, too, and a little slower.
        version_compat: let newer releases of the same major version run it.
        force: build even if a good engine is there.
        folder: where to; None: where `run` looks.
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
            raise ConfigError("--max-batch and --workspace must be 1 or more")


@dataclass(frozen=True)
class Built:
    """An engine that is stored and right.

    Attributes:
        path: its file.
        info: what it is.
        remark: why the one that was there had to go, or that it was kept; why the next build will be no quicker.
        warnings: TensorRT's.
    """

    path: Path
    info: EngineInfo
    reason: str = ""
    warnings: tuple[str, ...] = ()


def build(bundle: Bundle, options: BuildOptions, announce: Callable[[str], None] = lambda _: None) -> Built:
    """Make sure that a verified engine of a bundle is stored for this machine.

    Raises:
        MissingDependencyError: TensorRT is not installed.
        ConfigError: the bundle has no such graph, or takes no such batch.
        OutputError: the folder cannot be written, or is full.
        BackendError: there is no device, the plugin is not built, the graph is not for TensorRT or was never verified,
            or TensorRT refuses something.
        ParityError: the engine computes something else than PyTorch did; it is not stored.
    """
    import_tensorrt()
    graph = _choose_graph(bundle, options)
    folder = options.folder or engine_folder()
    _make(folder)
    device = CudaDevice(device_index(options.device))
    try:
        key = _key(bundle, graph, device, options)
        path = engine_path(key, folder)
        stored = _Stored() if options.force else _stored(bundle, key, path, device, announce)
        if stored.info is not None:
            return Built(path, stored.info, "the stored engine fits, and answers the golden frame rightly")
        if stored.fault:
            announce(f"building again, because {stored.fault}")
        data = bundle.graph(graph)
        _check_place(path, data)
        device.activate()
        plan = build_plan(
            data,
            bundle.manifest,
            key,
            timing_cache_path(key, folder),
            None if options.workspace is None else options.workspace * 2**20,
            announce,
        )
        info = _verify_and_store(plan, bundle, key, path, device, announce)
        reason = "; ".join(filter(None, (stored.fault, plan.reason)))
        return Built(path, info, reason, plan.warnings)
    finally:
        device.close()


def _verify_and_store(
    plan: Plan,
    bundle: Bundle,
    key: EngineKey,
    path: Path,
    device: CudaDevice,
    announce: Callable[[str], None],
) -> EngineInfo:
    announce("comparing the engine with PyTorch's golden outputs")
    backend = TensorRTBackend(plan.data, key, bundle, device)
    try:
        golden = _verified(backend, bundle, key)
        latency = _latency(backend, bundle)
        layers, unrecorded = backend.layers(), backend.reason
    finally:
        backend.close()
    info = EngineInfo(
        schema_version=ENGINE_SCHEMA,
        key=key,
        plan_sha256=sha256(plan.data),
        plan_bytes=len(plan.data),
        golden=golden,
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        build_seconds=round(plan.seconds, 3),
        latency_ms=latency,
        reason=unrecorded,
    )
    write_engine(path, info, plan.data, layers)
    return info


def _choose_graph(bundle: Bundle, options: BuildOptions) -> GraphName:
    graph: GraphName = "plugin" if options.graph == "auto" or options.graph == "fp32" else options.graph
    offered = (*bundle.certificates.by_graph(), *bundle.manifest.precisions)
    if graph in offered:
        return graph
    if graph != "plugin":
        raise ConfigError(f"{bundle.path} has no graph {graph!r}; choose one of: {', '.join(offered)}")
    raise ConfigError(
        f"{bundle.path} has no graph with our operator, and TensorRT 10.13 to 11.1 compute the portable one "
        "wrongly; export it again after: idol-deploy plugins build (or try --graph portable: it is verified, too)"
    )


def _key(bundle: Bundle, graph: GraphName, device: CudaDevice, options: BuildOptions) -> EngineKey:
    if options.max_batch > 1 and not bundle.manifest.dynamic_batch:
        raise ConfigError(
            f"{bundle.path} takes one frame at a time; export it with --dynamic-batch, or leave out --max-batch"
        )
    return msgspec.structs.replace(
        key_here(bundle, graph, device),
        batch=(1, options.max_batch, options.max_batch),
        hardware_compat=options.hardware_compat,
        version_compat=options.version_compat,
    )


@dataclass(frozen=True)
class _Stored:
    """What there is already: an engine to keep, or one at fault, or none.

    Attributes:
        info: of the one to keep.
        fault: why another one cannot be kept.
    """

    info: EngineInfo | None = None
    fault: str = ""


def _stored(
    bundle: Bundle, key: EngineKey, path: Path, device: CudaDevice, announce: Callable[[str], None]
) -> _Stored:
    if not path.is_file():
        return _Stored(fault=_fault_of_others(engines_of(bundle, key.graph, path.parent), key))
    try:
        info = read_info(path)
        mismatch = describe_mismatch(info.key, key)
        if mismatch:
            return _Stored(fault=f"the engine {path} does not fit: {mismatch}")
        announce("comparing the stored engine with PyTorch's golden outputs")
        backend = TensorRTBackend(read_plan(path, info), info.key, bundle, CudaDevice(device.index))
        try:
            _verified(backend, bundle, info.key)
        finally:
            backend.close()
    except (BackendError, ParityError) as error:
        return _Stored(fault=str(error))
    return _Stored(info)


def _fault_of_others(paths: list[Path], key: EngineKey) -> str:
    """Why the newest engine of another device or for another batch does not serve; empty where none is at fault."""
    for path in paths:
        with contextlib.suppress(BackendError):
            mismatch = describe_mismatch(read_info(path).key, key)
            if mismatch:
                return f"the engine {path} does not fit: {mismatch}"
    return ""


def _verified(backend: TensorRTBackend, bundle: Bundle, key: EngineKey) -> tuple[StageError, ...]:
    """The largest errors of an ordinary run, of a recorded one, and of the largest batch."""
    golden_frame, tolerances, most = bundle.golden_frame(), bundle.tolerances(key.graph), key.batch[2]
    # Twice, since the second of two alike is recorded.
    runs = [
        compare_golden(backend, golden_frame, tolerances, copies)
        for copies in (1, 1, *((most, most) if most > 1 else ()))
    ]
    worst = tuple(
        max(stages, key=lambda stage: (not stage.passed, stage.error)) for stages in zip(*runs, strict=True)
    )
    for stage in worst:
        if not stage.passed:
            way_out = (
                "check the plugin with: python -m idol_plugins.conformance"
                if key.plugin_sha256
                else "build from the graph with our operator, which is what --graph plugin does"
            )
            raise ParityError(
                stage.stage,
                f"the engine of TensorRT {key.tensorrt} answers wrongly on the golden frame: {stage.stage} is off by "
                f"{stage.error:.1e} (allowed {stage.tolerance:.0e}), so it is not stored; {way_out}",
            )
    return worst


def _latency(backend: TensorRTBackend, bundle: Bundle) -> tuple[float, float]:
    """Median and 95th percentile in ms of single frames, after the warm-up that verifying was."""
    frame = np.zeros((1, *bundle.manifest.network_size, 3), np.uint8)
    times: list[float] = []
    while len(times) < _MOST_TIMED and (len(times) < 10 or sum(times) < 1e3 * _TIMED_SECONDS):
        started = time.perf_counter()
        backend.infer(frame)
        times.append(1e3 * (time.perf_counter() - started))
    median, late = np.percentile(times, (50, 95))
    return round(float(median), 3), round(float(late), 3)


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(
            f"cannot make the folder {folder}: {error.strerror or error}; choose another --into"
        ) from error


def _check_place(path: Path, graph: bytes) -> None:
    """That an engine can be written, asked before it takes minutes to build."""
    writable_target(path)
    free = shutil.disk_usage(path.parent).free
    if free < len(graph) // 4:  # an engine has all weights, at best 8 bits for 32
        raise OutputError(
            f"cannot write {path}: the disk is full; free {len(graph) / 2**20:.0f} MiB, or choose another --into"
        )
