"""An overview of this machine: built libraries, missing ones and the reasons, and the tools to build them."""

import platform
import re
import shutil
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from idol_plugins.build import compiler, cuda_compiler
from idol_plugins.errors import PluginError
from idol_plugins.headers import ONNXRUNTIME, TENSORRT, find_headers, openvino_cmake, openvino_release
from idol_plugins.libraries import library_folders
from idol_plugins.selftest import IMAGE, TARGETS, Status, Target

__all__ = ["Info", "Part", "collect"]

_SECONDS = 10  # time limit of a tool's --version


@dataclass(frozen=True)
class Part:
    """A tool or a set of headers that the build needs.

    Attributes:
        name: Name of the tool or the headers.
        where: Path; None: not found.
        version: Version that the tool prints; empty if unknown.
        needed_for: Libraries that need it.
        fix: Command or instruction to get it.
    """

    name: str
    where: Path | None
    version: str
    needed_for: str
    fix: str


@dataclass(frozen=True)
class Info:
    """State of all libraries and build tools.

    Attributes:
        machine: Architecture and system.
        folders: Folders that are searched for libraries, in order.
        targets: State of each library.
        parts: Tools and headers that the build needs.
    """

    machine: str
    folders: tuple[Path, ...]
    targets: tuple[tuple[Target, Status], ...]
    parts: tuple[Part, ...]

    def as_dict(self) -> dict[str, Any]:
        """Return the overview for JSON; the key of the targets is `homes`."""
        homes = [
            {"name": target.name, "title": target.title, "ready": status.ready, **_plain(status)}
            for target, status in self.targets
        ]
        folders = [str(folder) for folder in self.folders]
        parts = [_plain(part) for part in self.parts]
        return {"machine": self.machine, "folders": folders, "homes": homes, "parts": parts}

    def table(self) -> str:
        """Return the overview as text."""
        lines = []
        for target, status in self.targets:
            detail = f"  ({status.detail})" if status.detail else ""
            if status.ready:
                lines.append(f"{target.title:24} ready     {status.file or ''}{detail}")
            else:
                state = "missing" if status.file is None else "unusable"
                lines.append(f"{target.title:24} {state:8}  {status.why}; {status.fix}")
        lines += ["", "build tools:"]
        for part in self.parts:
            place = f"{part.where}  {part.version}".rstrip() if part.where else f"not found: {part.fix}"
            lines.append(f"{part.name:24} {place}  [{part.needed_for}]")
        lines += ["", "library folders:", *(f"  {folder}" for folder in self.folders)]
        return "\n".join(lines)


def collect(targets: Sequence[Target] = (*TARGETS, IMAGE)) -> Info:
    """Inspect this machine; load the built libraries, build nothing.

    Args:
        targets: Libraries to include.
    """
    ort, trt = find_headers(ONNXRUNTIME), find_headers(TENSORRT)
    return Info(
        f"{platform.machine()} {platform.system()}",
        tuple(library_folders()),
        tuple((target, target.status()) for target in targets),
        (
            _tool("C++ compiler", compiler, "everything", "apt install g++"),
            _tool("CMake", lambda: shutil.which("cmake"), "everything", "pip install cmake"),
            _tool("nvcc", cuda_compiler, "CUDA, TensorRT", "install NVIDIA's CUDA toolkit"),
            Part("ONNX Runtime's headers", ort, "", "ONNX Runtime", "plugins build --fetch-headers"),
            _openvino(),
            Part("TensorRT's headers", trt, "", "TensorRT", f"plugins build {TENSORRT.option} FOLDER"),
        ),
    )


def _openvino() -> Part:
    fix = "pip install 'idol-deploy[openvino]'"
    try:
        return Part("OpenVINO's headers", openvino_cmake().parent, openvino_release(), "OpenVINO", fix)
    except PluginError:
        return Part("OpenVINO's headers", None, "", "OpenVINO", fix)


def _tool(name: str, find: Callable[[], str | None], needed_for: str, fix: str) -> Part:
    try:
        path = find()
    except PluginError:
        path = None
    return Part(name, Path(path) if path else None, _version(path) if path else "", needed_for, fix)


def _version(path: str) -> str:
    """Return the version number that ends a line of the tool's output."""
    try:
        done = subprocess.run(  # noqa: S603 - a tool found by its name
            [path, "--version"], capture_output=True, text=True, timeout=_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    match = re.search(r"\bV?(\d+\.\d+[\d.]*)\s*$", done.stdout, re.MULTILINE)
    return match[1] if match else ""


def _plain(value: Part | Status) -> dict[str, Any]:
    """Convert to a dict with paths as text."""
    return {key: str(item) if isinstance(item, Path) else item for key, item in asdict(value).items()}
