"""Locations of the inference engines' C and C++ headers, against which their libraries are compiled."""

import contextlib
import importlib.metadata
import importlib.util
import os
from dataclasses import dataclass
from pathlib import Path

from idol_plugins.errors import PluginError
from idol_plugins.libraries import user_cache

__all__ = [
    "ONNXRUNTIME",
    "TENSORRT",
    "Headers",
    "find_headers",
    "header_folder",
    "openvino_cmake",
    "openvino_release",
]


@dataclass(frozen=True)
class Headers:
    """The headers of one engine.

    Attributes:
        file: Header that identifies the folder.
        option: Option of the build command for the folder.
        variable: Environment variable with the folder, for tests and tools.
        places: Subfolders of the system's include folders to search.
    """

    file: str
    option: str
    variable: str
    places: tuple[str, ...]


ONNXRUNTIME = Headers(
    *("onnxruntime_c_api.h", "--ort-include", "ORT_INCLUDE_DIR"),
    ("", "onnxruntime", "onnxruntime/core/session"),
)
TENSORRT = Headers(
    *("NvInfer.h", "--tensorrt-include", "TENSORRT_INCLUDE_DIR"),
    ("", "x86_64-linux-gnu", "aarch64-linux-gnu"),
)


def header_folder(headers: Headers) -> Path:
    """Return the folder for fetched headers, in the user's cache.

    Raises:
        PluginError: The user has no home folder.
    """
    return user_cache() / "headers" / headers.variable.lower().removesuffix("_include_dir")


def find_headers(headers: Headers) -> Path | None:
    """Return the folder of an engine's headers, or None.

    Searches the folder in the environment variable, the system's include folders, and the fetched headers.
    """
    roots = [Path("/usr/include"), Path("/usr/local/include")]
    folders = [root / place for root in roots for place in headers.places]
    with contextlib.suppress(PluginError):
        folders.append(header_folder(headers))
    if variable := os.environ.get(headers.variable):
        folders.insert(0, Path(variable))
    return next((folder for folder in folders if (folder / headers.file).is_file()), None)


def openvino_release() -> str:
    """Return the release of the installed OpenVINO, without importing it.

    Raises:
        PluginError: OpenVINO is not installed.
    """
    try:
        return importlib.metadata.version("openvino")
    except importlib.metadata.PackageNotFoundError as error:
        raise PluginError("openvino is not installed; pip install 'idol-deploy[openvino]'") from error


def openvino_cmake() -> Path:
    """Return the folder of the CMake files in the installed OpenVINO, which has its C++ headers as well.

    Raises:
        PluginError: OpenVINO is not installed, or is too old, or without its C++ headers.
    """
    release = openvino_release()
    # Up to 2025.0, an operator for the ONNX reader needs symbols of a library that only this reader loads.
    if tuple(map(int, release.split(".")[:2])) < (2025, 1):
        raise PluginError(f"openvino {release} is older than 2025.1; pip install 'idol-deploy[openvino]'")
    spec = importlib.util.find_spec("openvino")
    for package in spec.submodule_search_locations or () if spec else ():
        if (cmake := Path(package) / "cmake" / "OpenVINOConfig.cmake").is_file():
            return cmake.parent
    raise PluginError(
        f"openvino {release} has no C++ headers; install PyPI's: pip install --force-reinstall openvino=={release}"
    )
