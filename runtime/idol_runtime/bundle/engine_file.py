"""Stored TensorRT engines: the file format, and whether an engine fits a machine.

An engine is a zip file, stored without compression, of three members: `engine.json` (description), `plan` (TensorRT's
serialized engine) and `layers.json` (TensorRT's description of the layers). The SHA-256 of `engine.json` is the zip's
comment, and `engine.json` holds that of the plan. This detects accidents; it is not a signature: a plan is a program.
"""

import os
import re
from contextlib import closing
from pathlib import Path

import msgspec

from idol_plugins.errors import PluginError
from idol_plugins.libraries import user_cache
from idol_runtime.bundle.bundle import GRAPHS, WEIGHTS, Bundle, GraphName, StageError
from idol_runtime.bundle.certificates import current_name
from idol_runtime.bundle.sealed_zip import SealedZip, sha256, write_sealed
from idol_runtime.errors import BackendError, OutputError
from idol_runtime.json_text import JSON_ERRORS

__all__ = [
    "ENGINE_SCHEMA",
    "FOLDER_VARIABLE",
    "EngineInfo",
    "EngineKey",
    "describe_mismatch",
    "device_slug",
    "engine_folder",
    "engine_path",
    "engines_of",
    "graph_hash",
    "read_info",
    "read_layers",
    "read_plan",
    "write_engine",
]

ENGINE_SCHEMA = 1
FOLDER_VARIABLE = "IDOL_ENGINES"
_INFO, _PLAN, _LAYERS = "engine.json", "plan", "layers.json"
_MAX_INFO, _MAX_LAYERS = 2**22, 2**28


class EngineKey(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The properties that decide whether an engine may run.

    Attributes:
        graph: name of the bundle's graph.
        graph_sha256: hash of the graph with its weights.
        precision: precision of the graph; the engine does not change it.
        batch: smallest, optimal and largest batch in frames.
        plugin_sha256: hash of the plugin library; empty for a graph without the plugin.
        tensorrt: version of TensorRT.
        gpu: name of the device.
        capability: compute capability of the device, such as `8.7`.
        driver: version of the driver.
        hardware_compat: devices that may run it: `none` (the same), `ampere_plus`, `same_compute_capability`.
        version_compat: whether newer releases of the same major version may run it.
    """

    graph: GraphName
    graph_sha256: str
    precision: str
    batch: tuple[int, int, int]
    plugin_sha256: str
    tensorrt: str
    gpu: str
    capability: str
    driver: str
    hardware_compat: str = "none"
    version_compat: bool = False


class EngineInfo(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The description of an engine file.

    Attributes:
        schema_version: version of the file format.
        key: properties that decide whether the engine may run.
        plan_sha256: hash of the plan.
        plan_bytes: size of the plan.
        golden: error of each output on the golden frame, after the build.
        created: time of the build, ISO 8601, UTC.
        build_seconds: duration of TensorRT's build.
        latency_ms: median and 95th percentile of one frame with copies, measured after the build.
        reason: why it does not run as one CUDA graph; empty if it does.
    """

    schema_version: int
    key: EngineKey
    plan_sha256: str
    plan_bytes: int
    golden: tuple[StageError, ...]
    created: str
    build_seconds: float
    latency_ms: tuple[float, float]
    reason: str = msgspec.field(name="remark", default="")


def engine_folder() -> Path:
    """Return `$IDOL_ENGINES`, or `idol_deploy/engines` in the user's cache.

    Raises:
        OutputError: the user has no home folder for the cache.
    """
    if os.environ.get(FOLDER_VARIABLE):
        return Path(os.environ[FOLDER_VARIABLE])
    try:
        return user_cache() / "engines"
    except PluginError as error:
        raise OutputError(f"there is no folder for engines: {error}") from error


def graph_hash(bundle: Bundle, graph: GraphName) -> str:
    """Return the hash of a graph with its weights, from the hashes in the manifest."""
    members = bundle.manifest.members
    return sha256(f"{members[WEIGHTS].sha256} {members[GRAPHS[graph]].sha256}".encode())


def device_slug(key: EngineKey) -> str:
    """Return the device's name in a form for file names."""
    return re.sub(r"[^a-z0-9]+", "-", key.gpu.lower()).strip("-")


def engine_path(key: EngineKey, folder: Path | None = None) -> Path:
    """Return the path of an engine: one file per graph, device, batch and compatibility.

    An engine for another TensorRT, driver or plugin replaces the file, because the old one can no longer run here.
    """
    compat = f"-{key.hardware_compat}".removesuffix("-none") + ("-ver" if key.version_compat else "")
    name = f"{key.graph_sha256[:16]}-{device_slug(key)}-batch{'-'.join(map(str, key.batch))}{compat}.engine"
    return (folder or engine_folder()) / name


def engines_of(bundle: Bundle, graph: GraphName, folder: Path | None = None) -> list[Path]:
    """Return the engine files of a graph for all machines, newest first; empty if the bundle lacks the graph."""
    if GRAPHS[graph] not in bundle.manifest.members:
        return []
    try:
        folder = folder or engine_folder()
    except OutputError:
        return []
    paths = folder.glob(f"{graph_hash(bundle, graph)[:16]}-*.engine")
    return sorted(paths, key=lambda path: path.stat().st_mtime, reverse=True)


def describe_mismatch(built: EngineKey, here: EngineKey) -> str:
    """Explain why an engine may not run on this machine; empty if it may. Batch and options are not compared."""
    portable = built.hardware_compat != "none"
    for difference, old, new in (
        ("from another graph, or weights", built.graph_sha256, here.graph_sha256),
        ("in precision", built.precision, here.precision),
        ("with another build of the plugin", built.plugin_sha256, here.plugin_sha256),
    ):
        if old != new:
            return f"it was built {difference} {old[:12] or 'none'}, this is {new[:12] or 'none'}"
    newer, older = _numbers(here.tensorrt), _numbers(built.tensorrt)
    if built.tensorrt != here.tensorrt and not (
        built.version_compat and newer[0] == older[0] and newer >= older
    ):
        return f"it was built with TensorRT {built.tensorrt}, this is {here.tensorrt}"
    if built.gpu != here.gpu and not (portable and _runs_on(built, here)):
        return f"it was built on {built.gpu}, this is {here.gpu}"
    if built.driver != here.driver and not portable:
        return f"it was built with driver {built.driver}, this is {here.driver}"
    return ""


def _runs_on(built: EngineKey, here: EngineKey) -> bool:
    if built.hardware_compat == "ampere_plus":
        return _numbers(here.capability) >= (8, 0)
    return built.capability == here.capability


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version)) or (0,)


def write_engine(path: Path, info: EngineInfo, plan: bytes, layers: str) -> None:
    """Write an engine file atomically.

    Raises:
        OutputError: the path cannot be written.
    """
    write_sealed(path, _INFO, info, {_PLAN: plan, _LAYERS: layers.encode()})


def read_info(path: Path) -> EngineInfo:
    """Read the description of an engine file.

    Raises:
        BackendError: the file is broken or of another schema.
    """
    with closing(_open(path)) as file:
        version, encoded = file.head(_INFO, _MAX_INFO)
    if version != ENGINE_SCHEMA:
        raise BackendError(f"{path} has engine schema {version}, this idol-deploy reads {ENGINE_SCHEMA}")
    try:
        return msgspec.json.decode(current_name(encoded.decode()), type=EngineInfo)
    except JSON_ERRORS as error:
        raise BackendError(f"{path} is corrupted: {_INFO} is not valid ({error})") from error


def read_plan(path: Path, info: EngineInfo) -> bytes:
    """Read the serialized engine of an engine file.

    Raises:
        BackendError: the plan was changed after it was written.
    """
    with closing(_open(path)) as file:
        plan = file.read(_PLAN, info.plan_bytes)
    if len(plan) != info.plan_bytes or sha256(plan) != info.plan_sha256:
        raise BackendError(f"{path} is corrupted: its plan was changed")
    return plan


def read_layers(path: Path) -> str:
    """Read TensorRT's description of the layers, JSON, for display only.

    Raises:
        BackendError: the file cannot be read.
    """
    with closing(_open(path)) as file:
        return file.read(_LAYERS, _MAX_LAYERS).decode(errors="replace")


def _open(path: Path) -> SealedZip:
    return SealedZip(path, lambda why: BackendError(f"{path} is corrupted: {why}"))
