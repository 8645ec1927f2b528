"""Locations of the built libraries, and how they are loaded. Searching for a library never builds it."""

import contextlib
import ctypes
import os
import stat
import sys
from collections.abc import Iterator
from pathlib import Path

from idol_plugins.errors import PluginError

__all__ = [
    "BUILD",
    "FOLDER_VARIABLE",
    "build_folder",
    "find_library",
    "library_folders",
    "load_library",
    "user_cache",
]

# The command that builds the libraries, for messages.
BUILD = "idol-deploy plugins build"
# Environment variable with a folder that is searched first.
FOLDER_VARIABLE = "IDOL_PLUGINS"


def user_cache() -> Path:
    """Return the project's cache folder: `idol_deploy` in `$XDG_CACHE_HOME`, else in `~/.cache`.

    A relative `$XDG_CACHE_HOME` is ignored, as the XDG Base Directory Specification demands: the cache would depend on
    the current folder, and libraries are loaded from it.

    Raises:
        PluginError: The user has no home folder, for example in a container with an unknown user id.
    """
    try:
        cache = Path(os.environ.get("XDG_CACHE_HOME", ""))
        if not cache.is_absolute():
            cache = Path.home() / ".cache"
    except RuntimeError as error:
        raise PluginError("the user has no home folder; set HOME or XDG_CACHE_HOME") from error
    return cache / "idol_deploy"


def build_folder() -> Path:
    """Return the default output folder of `build`, in the user's cache.

    Raises:
        PluginError: The user has no home folder.
    """
    return user_cache() / "plugins"


def library_folders() -> Iterator[Path]:
    """Yield the folders to search, in order: `$IDOL_PLUGINS`, the package's `lib`, the user's cache."""
    if os.environ.get(FOLDER_VARIABLE):
        yield Path(os.environ[FOLDER_VARIABLE])
    yield Path(__file__).parent / "lib"
    with contextlib.suppress(PluginError):
        yield build_folder()


def find_library(library: str, folder: Path | None = None, build: str = BUILD) -> Path:
    """Return the path of a built library.

    Args:
        library: Name without prefix and suffix, as in CMakeLists.txt, for example `idol_deform_attn_cpu`.
        folder: Only folder to search; None: all of `library_folders()`.
        build: Command that builds the library, for the error.

    Raises:
        PluginError: The library is in none of the folders, or in a cache that other users may write.
    """
    name = f"lib{library}.dylib" if sys.platform == "darwin" else f"lib{library}.so"
    folders = [folder] if folder is not None else list(library_folders())
    for candidate in folders:
        if (candidate / name).is_file():
            if folder is None:
                _check_owner(candidate / name)
            return candidate / name
    raise PluginError(
        f"{name} is not built: it is not in {', '.join(map(str, folders))}; build it with: {build}"
    )


def _check_owner(library: Path) -> None:
    """Check that no other user may replace a library of the user's cache: loading it would run that user's code."""
    if library.parent != build_folder() or not hasattr(os, "getuid"):
        return
    for path in (library.parent.parent, library.parent, library):
        status = path.stat()
        if status.st_uid not in (0, os.getuid()) or status.st_mode & stat.S_IWOTH:
            raise PluginError(
                f"{path} can be changed by other users, who could run code here; delete it, and build again: {BUILD}"
            )


def load_library(path: Path, *functions: str, version: int | None = None, build: str = BUILD) -> ctypes.CDLL:
    """Load a library and check its functions and its interface version.

    Args:
        path: Path of the library.
        functions: Names of functions that the library must have.
        version: Interface version that the first function must return; None: not checked.
        build: Command that builds the library, for the error message.

    Raises:
        PluginError: The library cannot be loaded, lacks a function, or has another interface version.
    """
    try:
        library = ctypes.CDLL(str(path))
        entries = [library[name] for name in functions]
    except (OSError, AttributeError) as error:
        raise PluginError(f"{path} cannot be loaded ({error}); build it again: {build}") from error
    if version is not None and (actual := int(entries[0]())) != version:
        raise PluginError(
            f"{path} has interface {actual}, this version needs {version}; build it again: {build}"
        )
    return library
