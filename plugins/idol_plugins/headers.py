"""Where the C headers of the inference engines are, which the libraries for them are compiled against."""

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path

from idol_plugins.errors import PluginError
from idol_plugins.user_cache import user_cache

__all__ = ["ONNXRUNTIME", "TENSORRT", "Headers", "find_headers", "header_folder"]


@dataclass(frozen=True)
class Headers:
    """The headers of one engine.

    Attributes:
        title: of the engine.
        file: the one that tells a folder of them from any other.
        option: of the build command, to name the folder.
        variable: of the environment, that names the folder to tests and tools.
        places: below the folders for headers, where a package may put them.
    """

    title: str
    file: str
    option: str
    variable: str
    places: tuple[str, ...]


ONNXRUNTIME = Headers(
    "ONNX Runtime",
    "onnxruntime_c_api.h",
    "--ort-include",
    "ORT_INCLUDE_DIR",
    ("", "onnxruntime", "onnxruntime/core/session"),
)
TENSORRT = Headers(
    "TensorRT",
    "NvInfer.h",
    "--tensorrt-include",
    "TENSORRT_INCLUDE_DIR",
    ("", "x86_64-linux-gnu", "aarch64-linux-gnu"),
)


def header_folder(headers: Headers) -> Path:
    """Where fetched headers are kept, in the user's cache.

    Raises:
        PluginError: the user has no home folder.
    """
    return user_cache() / "headers" / headers.variable.lower().removesuffix("_include_dir")


def find_headers(headers: Headers) -> Path | None:
    """The folder of an engine's headers: what its variable names, one of the system's, or those fetched."""
    named = os.environ.get(headers.variable)
    roots = [Path("/usr/include"), Path("/usr/local/include")]
    folders = [root / place for root in roots for place in headers.places]
    with contextlib.suppress(PluginError):
        folders.append(header_folder(headers))
    for folder in [*([Path(named)] if named else []), *folders]:
        if (folder / headers.file).is_file():
            return folder
    return None
