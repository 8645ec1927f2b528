"""Where the built libraries are. Looking for one never builds it."""

import contextlib
import ctypes
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from idol_plugins.errors import PluginError
from idol_plugins.user_cache import user_cache

__all__ = ["FOLDER_VARIABLE", "Library", "build_folder", "find_library", "library_folders", "load_library"]

# A folder to look in before any other.
FOLDER_VARIABLE = "IDOL_PLUGINS"

# The name of a library without its affixes, as CMakeLists.txt calls it.
Library = str


def build_folder() -> Path:
    """Where `build` puts libraries unless told otherwise: in the user's cache, for this version of the sources.

    Raises:
        PluginError: the user has no home folder.
    """
    return user_cache() / "plugins"


def library_folders() -> Iterator[Path]:
    """Folders that may hold libraries, best first: `$IDOL_PLUGINS`, the package's own, the user's cache."""
    if os.environ.get(FOLDER_VARIABLE):
        yield Path(os.environ[FOLDER_VARIABLE])
    yield Path(__file__).parent / "lib"
    with contextlib.suppress(PluginError):
        yield build_folder()


def find_library(library: Library, folder: Path | None = None) -> Path:
    """The file of a built library.

    Args:
        library: `idol_deform_attn_cpu`, for instance.
        folder: look here only.

    Raises:
        PluginError: it is in none of the folders.
    """
    name = f"lib{library}.dylib" if sys.platform == "darwin" else f"lib{library}.so"
    folders = [folder] if folder is not None else list(library_folders())
    for candidate in folders:
        if (candidate / name).is_file():
            return candidate / name
    raise PluginError(
        f"{name} is not built: it is not in {', '.join(map(str, folders))}; "
        "build it with: idol-deploy plugins build"
    )


def load_library(path: Path, version_of: str, version: int) -> ctypes.CDLL:
    """A library of this version's interface.

    Args:
        path: of the file.
        version_of: its function that tells which interface it has.
        version: that is wanted.

    Raises:
        PluginError: it cannot be loaded, or is of another version.
    """
    again = "build it again: python -m idol_plugins.build"
    try:
        library = ctypes.CDLL(str(path))
        found = int(library[version_of]())
    except (OSError, AttributeError) as error:
        raise PluginError(f"{path} cannot be loaded ({error}); {again}") from error
    if found != version:
        raise PluginError(f"{path} has interface {found}, this version needs {version}; {again}")
    return library
