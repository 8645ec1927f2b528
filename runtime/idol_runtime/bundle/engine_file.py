"""Engines that `idol-deploy build` has stored: the file, what it is good for, and which one fits a machine.

An engine is a zip file, stored without compression, of three members: `engine.json` (what it is), `plan` (what
TensorRT built) and `layers.json` (TensorRT's account of it). As in a bundle, the SHA-256 of `engine.json` is the
zip's comment, and it holds that of the plan. This finds accidents; it is no signature: a plan is a program.
"""

import os
import re
from contextlib import closing
from pathlib import Path

import msgspec

from idol_plugins.errors import PluginError
from idol_plugins.libraries import user_cache
from idol_runtime.bundle.bundle import GRAPHS, WEIGHTS, Bundle, GraphName, StageError
from idol_runtime.bundle.sealed_zip import SealedZip, sha256, write_sealed
from idol_runtime.errors import BackendError, OutputError

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
_MOST_INFO, _MOST_LAYERS = 2**22, 2**28


class EngineKey(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All that decides whether an engine may run.

    Attributes:
        graph: which of the bundle's.
        graph_sha256: of that graph with its weights.
        precision: of the graph's arithmetic; engines change none of it.
        batch: least, best and most frames at once.
        plugin_sha256: of the plugin's library; empty for a graph that needs none.
        tensorrt: version.
        gpu: its name.
        capability: its compute capability.
        driver: its driver.
        hardware_compat: `none`, or the level: `ampere_plus`, `same_compute_capability`.
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
    """What an engine file holds.

    Attributes:
        schema_version: of the file.
        key: what it is good for.
        plan_sha256: of the plan.
        plan_bytes: its size.
        golden: error of each output on the golden frame, as built.
        created: ISO 8601, UTC.
        build_seconds: that TensorRT took.
        latency_ms: median and 95th percentile of one frame, copies included, measured after the build.
        reason: why it does not run as one CUDA graph, if it does not.
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
    """`$IDOL_ENGINES`, or `idol_deploy/engines` in the user's cache.

    Raises:
        OutputError: it would be in the cache, and the user has no home folder.
    """
    if os.environ.get(FOLDER_VARIABLE):
        return Path(os.environ[FOLDER_VARIABLE])
    try:
        return user_cache() / "engines"
    except PluginError as error:
        raise OutputError(f"engines have no place: {error}") from error


def graph_hash(bundle: Bundle, graph: GraphName) -> str:
    """Of a graph with its weights, from the hashes in the manifest."""
    members = bundle.manifest.members
    return sha256(f"{members[WEIGHTS].sha256} {members[GRAPHS[graph]].sha256}".encode())


def device_slug(key: EngineKey) -> str:
    """The device's name as part of a file's."""
    return re.sub(r"[^a-z0-9]+", "-", key.gpu.lower()).strip("-")


def engine_path(key: EngineKey, folder: Path | None = None) -> Path:
    """Where this engine goes: one file for a graph, a device, a batch and what else may run it.

    Another TensorRT, driver or plugin replaces the file, since nothing here could run the old one any more.
    """
    compat = f"-{key.hardware_compat}".removesuffix("-none") + ("-ver" if key.version_compat else "")
    name = f"{key.graph_sha256[:16]}-{device_slug(key)}-batch{'-'.join(map(str, key.batch))}{compat}.engine"
    return (folder or engine_folder()) / name


def engines_of(bundle: Bundle, graph: GraphName, folder: Path | None = None) -> list[Path]:
    """Engine files of a graph, newest first, whatever machine they are for; none of a graph that is not there."""
    if GRAPHS[graph] not in bundle.manifest.members:
        return []
    try:
        folder = folder or engine_folder()
    except OutputError:
        return []
    found = folder.glob(f"{graph_hash(bundle, graph)[:16]}-*.engine")
    return sorted(found, key=lambda path: path.stat().st_mtime, reverse=True)


def describe_mismatch(built: EngineKey, here: EngineKey) -> str:
    """Why an engine may not run here; empty if it may. Its batch and options are its own."""
    travels = built.hardware_compat != "none"
    for what, was, is_now in (
        ("from another graph, or weights", built.graph_sha256, here.graph_sha256),
        ("in precision", built.precision, here.precision),
        ("with another build of the plugin", built.plugin_sha256, here.plugin_sha256),
    ):
        if was != is_now:
            short = f" {was[:12] or 'none'}, this is {is_now[:12] or 'none'}"
            return f"it was built {what}{short}"
    if built.tensorrt != here.tensorrt and not (
        built.version_compat and _serves(here.tensorrt, built.tensorrt)
    ):
        return f"it was built with TensorRT {built.tensorrt}, this is {here.tensorrt}"
    if built.gpu != here.gpu and not (travels and _runs_on(built, here)):
        return f"it was built on {built.gpu}, this is {here.gpu}"
    if built.driver != here.driver and not travels:
        return f"it was built with driver {built.driver}, this is {here.driver}"
    return ""


def _serves(newer: str, older: str) -> bool:
    a, b = _numbers(newer), _numbers(older)
    return a[0] == b[0] and a >= b


def _runs_on(built: EngineKey, here: EngineKey) -> bool:
    if built.hardware_compat == "ampere_plus":
        return _numbers(here.capability) >= (8, 0)
    return built.capability == here.capability


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version)) or (0,)


def write_engine(path: Path, info: EngineInfo, plan: bytes, layers: str) -> None:
    """Write an engine file, whole or not at all, and its folder if need be.

    Raises:
        OutputError: the place cannot be written.
    """
    write_sealed(path, _INFO, info, {_PLAN: plan, _LAYERS: layers.encode()})


def read_info(path: Path) -> EngineInfo:
    """What an engine file holds, without its plan.

    Raises:
        BackendError: it is broken, or of another schema.
    """
    with closing(_open(path)) as file:
        version, encoded = file.head(_INFO, _MOST_INFO)
    if version != ENGINE_SCHEMA:
        raise BackendError(f"{path} has engine schema {version}, this idol-deploy reads {ENGINE_SCHEMA}")
    try:
        return msgspec.json.decode(encoded, type=EngineInfo)
    except msgspec.DecodeError as error:
        raise BackendError(f"{path} is corrupted: {_INFO} is not valid ({error})") from error


def read_plan(path: Path, info: EngineInfo) -> bytes:
    """What TensorRT built.

    Raises:
        BackendError: it was changed after it was written.
    """
    with closing(_open(path)) as file:
        plan = file.read(_PLAN, info.plan_bytes)
    if len(plan) != info.plan_bytes or sha256(plan) != info.plan_sha256:
        raise BackendError(f"{path} is corrupted: its plan was changed")
    return plan


def read_layers(path: Path) -> str:
    """TensorRT's account of the layers, JSON; nothing relies on it.

    Raises:
        BackendError: it cannot be read.
    """
    with closing(_open(path)) as file:
        return file.read(_LAYERS, _MOST_LAYERS).decode(errors="replace")


def _open(path: Path) -> SealedZip:
    return SealedZip(path, lambda why: BackendError(f"{path} is corrupted: {why}"))
