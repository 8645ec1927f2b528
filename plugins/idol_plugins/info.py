"""Which libraries there are on this machine, what is missing and why, and what can be built here."""

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
from idol_plugins.headers import ONNXRUNTIME, TENSORRT, find_headers
from idol_plugins.home import Listed, Status
from idol_plugins.homes import ImageHome, all_homes
from idol_plugins.libraries import library_folders

__all__ = ["HomeInfo", "Info", "Part", "collect"]

_SECONDS = 10  # that a tool may take to tell its version


@dataclass(frozen=True)
class HomeInfo:
    """A home of the kernel, or another library, and its state.

    Attributes:
        name: one word.
        title: as people know it.
        status: whether it is there.
    """

    name: str
    title: str
    status: Status


@dataclass(frozen=True)
class Part:
    """Something that building needs.

    Attributes:
        name: of the tool, or the headers.
        where: its path; None: it is not here.
        version: what it says of itself.
        needed_for: which libraries.
        fix: how to get it.
    """

    name: str
    where: Path | None
    version: str
    needed_for: str
    fix: str


@dataclass(frozen=True)
class Info:
    """All of it.

    Attributes:
        machine: architecture and system.
        folders: that libraries are looked for in, first to last.
        homes: of the kernel, and of what else is built.
        parts: that building needs.
    """

    machine: str
    folders: tuple[Path, ...]
    homes: tuple[HomeInfo, ...]
    parts: tuple[Part, ...]

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        homes = [
            {"name": home.name, "title": home.title, "ready": home.status.ready, **asdict(home.status)}
            for home in self.homes
        ]
        plain: dict[str, Any] = _plain({**asdict(self), "homes": homes})
        return plain

    def table(self) -> str:
        """For people."""
        lines = []
        for home in self.homes:
            status = home.status
            detail = f"  ({status.detail})" if status.detail else ""
            if status.ready:
                lines.append(f"{home.title:24} ready     {status.file or ''}{detail}")
            else:
                state = "missing" if status.file is None else "unusable"
                lines.append(f"{home.title:24} {state:8}  {status.why}; {status.fix}")
        lines += ["", "to build with:"]
        for part in self.parts:
            found = f"{part.where}  {part.version}".rstrip() if part.where else f"not here: {part.fix}"
            lines.append(f"{part.name:24} {found}  [{part.needed_for}]")
        lines += ["", "libraries are looked for in:", *(f"  {folder}" for folder in self.folders)]
        return "\n".join(lines)


def collect(homes: Sequence[Listed] | None = None) -> Info:
    """Look at this machine; loads what is built, builds nothing.

    Args:
        homes: None: `all_homes()` and the resize.
    """
    listed: Sequence[Listed] = [*all_homes(), ImageHome()] if homes is None else homes
    return Info(
        f"{platform.machine()} {platform.system()}",
        tuple(library_folders()),
        tuple(HomeInfo(home.name, home.title, home.status()) for home in listed),
        _parts(),
    )


def _parts() -> tuple[Part, ...]:
    ort, trt = find_headers(ONNXRUNTIME), find_headers(TENSORRT)
    return (
        _tool("C++ compiler", _path(compiler), "everything", "apt install g++"),
        _tool("CMake", shutil.which("cmake"), "everything", "pip install cmake"),
        _tool("nvcc", _path(cuda_compiler), "CUDA, TensorRT", "install NVIDIA's CUDA toolkit"),
        Part("ONNX Runtime's headers", ort, "", "ONNX Runtime", "plugins build --fetch-headers"),
        Part("TensorRT's headers", trt, "", "TensorRT", f"plugins build {TENSORRT.option} FOLDER"),
    )


def _path(find: Callable[[], str]) -> str | None:
    try:
        return find()
    except PluginError:
        return None


def _tool(name: str, path: str | None, needed_for: str, fix: str) -> Part:
    return Part(name, Path(path) if path else None, _version(path) if path else "", needed_for, fix)


def _version(path: str) -> str:
    """The number among what the tool says of itself; nvcc says it last."""
    try:
        done = subprocess.run(  # noqa: S603 - a tool that was found by its name
            [path, "--version"], capture_output=True, text=True, timeout=_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    found = re.search(r"\bV?(\d+\.\d+[\d.]*)\s*$", done.stdout, re.MULTILINE)
    return found[1] if found else ""


def _plain(value: Any) -> Any:
    """With paths as text."""
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    return str(value) if isinstance(value, Path) else value
