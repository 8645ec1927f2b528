"""The remembered choice of a candidate: one small JSON file per bundle and options in the user's cache.

The file also holds all that the choice depends on. Any difference, and any fault of the file, has the candidates timed
anew.
"""

import contextlib
import datetime
import importlib.metadata
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec

from idol_plugins.errors import PluginError
from idol_plugins.libraries import library_folders, user_cache
from idol_runtime.backends.base import OpenOptions
from idol_runtime.backends.opening import Candidate
from idol_runtime.bundle.bundle import GRAPHS, Bundle
from idol_runtime.bundle.certificates import GraphName
from idol_runtime.bundle.engine_file import engines_of
from idol_runtime.bundle.sealed_zip import sha256
from idol_runtime.errors import OutputError
from idol_runtime.files import write_text
from idol_runtime.json_text import JSON_ERRORS, to_json
from idol_runtime.processor import processor_features, processor_name

__all__ = ["Choice", "load_choice", "store_choice"]

_ONNXRUNTIME = ("onnxruntime", "onnxruntime-gpu", "onnxruntime-ep-cuda12", "onnxruntime-ep-cuda13")
_PACKAGES = ("idol-deploy", *_ONNXRUNTIME, "openvino", "tensorrt")
_GPUS = Path("/proc/driver/nvidia")


class Choice(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The chosen candidate.

    Attributes:
        depends: what the choice depends on, by name.
        backend: name of the backend.
        device: device of the backend.
        graph: name of the graph.
        text: the choice in one line, with the gain over the next best.
        hint: the command that may make a faster candidate run, with the reason; empty without one.
        date: day on which the candidates were timed; empty: just now.
    """

    depends: dict[str, Any]
    backend: str
    device: str
    graph: GraphName
    text: str
    hint: str
    date: str = ""

    @property
    def lines(self) -> list[str]:
        """The choice in one line and, if there is one, the hint in a second."""
        text = f"{self.text}; remembered from {self.date}" if self.date else self.text
        return [text, self.hint] if self.hint else [text]


def load_choice(bundle: Bundle, options: OpenOptions) -> Choice | None:
    """Return the remembered choice; None if there is none that holds now."""
    try:
        choice = msgspec.json.decode(_path(bundle, options).read_bytes(), type=Choice)
    except (*JSON_ERRORS, OSError, PluginError):
        return None
    return choice if choice.depends == _dependencies(bundle, options) else None


def store_choice(bundle: Bundle, options: OpenOptions, best: Candidate, text: str, hint: str) -> Choice:
    """Remember a choice and return it; a cache that cannot be written is left as it is."""
    assert best.graph is not None
    depends = _dependencies(bundle, options)
    choice = Choice(depends, best.backend, best.device, best.graph, text, hint)
    today = datetime.datetime.now(datetime.timezone.utc).date().isoformat()
    encoded = msgspec.json.format(to_json(msgspec.structs.replace(choice, date=today)))
    with contextlib.suppress(OSError, OutputError, PluginError):
        path = _path(bundle, options)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, encoded.decode())
    return choice


def _path(bundle: Bundle, options: OpenOptions) -> Path:
    subject = (_digest(bundle), options.backend, options.device, options.graph, options.threads)
    return user_cache() / "choices" / f"{sha256(msgspec.json.encode(subject))[:32]}.json"


def _digest(bundle: Bundle) -> str:
    return sha256(msgspec.json.encode(bundle.manifest))  # it holds the hashes of all members


def _dependencies(bundle: Bundle, options: OpenOptions) -> dict[str, Any]:
    """Return all that may change the choice, as JSON values."""
    names = ("CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS", "TBB_NUM_THREADS")
    value = {
        "bundle": [_digest(bundle), os.path.abspath(bundle.path)],  # the hint names the file
        "options": [options.backend, options.device, options.graph, options.threads],
        "packages": {name: version for name in _PACKAGES if (version := _version(name))},
        "libraries": _files(path for folder in library_folders() for path in folder.glob("libidol_*")),
        "engines": _files(path for graph in GRAPHS for path in engines_of(bundle, graph)),
        "processor": [processor_name(), *processor_features()],
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "gpus": [
            path.read_text()
            for path in sorted(_GPUS.glob("version")) + sorted(_GPUS.glob("gpus/*/information"))
        ],
        "environment": {name: os.environ[name] for name in names if name in os.environ},
    }
    builtins: dict[str, Any] = msgspec.json.decode(to_json(value))
    return builtins


def _version(package: str) -> str:
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        return importlib.metadata.version(package)
    return ""


def _files(paths: Iterable[Path]) -> dict[str, list[int]]:
    """Return size and time of change of each file."""
    statuses = {str(path): path.stat() for path in paths}
    return {path: [status.st_size, status.st_mtime_ns] for path, status in statuses.items()}
