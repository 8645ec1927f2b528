"""Imports at first use: of optional packages, and of the names of a package."""

import importlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from idol_runtime.errors import IdolError, MissingDependencyError

__all__ = ["import_optional", "lazy_names", "load_av", "load_cv2"]


def import_optional(module: str, package: str, extra: str, purpose: str) -> Any:
    """Import an optional module.

    Args:
        module: name of the module, such as `cv2`.
        package: distribution of the module, such as `opencv-python`.
        extra: extra of this project that installs the package.
        purpose: purpose in the error message, such as `reading video`.

    Returns:
        The module.

    Raises:
        MissingDependencyError: the package is not installed.
        IdolError: the package is installed but cannot be loaded.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] == module.partition(".")[0]:
            raise MissingDependencyError(package, extra, purpose) from error
        raise IdolError(
            f"{purpose} needs {package}, which is incomplete: {error}; install it again"
        ) from error
    except ImportError as error:
        hint = "; without a screen, install opencv-python-headless in its place" if module == "cv2" else ""
        raise IdolError(f"{purpose} needs {package}, which cannot be loaded: {error}{hint}") from error


def lazy_names(
    namespace: dict[str, Any], modules: Mapping[str, Sequence[str]]
) -> tuple[Callable[[str], object], Callable[[], list[str]]]:
    """Return the functions `__getattr__` and `__dir__` of a package whose names are imported at first use.

    Args:
        namespace: `globals()` of the package; imported names, and `__version__`, are stored there.
        modules: names by module.
    """
    module_of = {name: module for module, names in modules.items() for name in names}

    def load(name: str) -> object:
        if name == "__version__":
            from importlib.metadata import version

            value: object = version("idol-deploy")
        elif name in module_of:
            value = getattr(importlib.import_module(module_of[name]), name)
        else:
            raise AttributeError(f"module {namespace['__name__']!r} has no attribute {name!r}")
        namespace[name] = value
        return value

    return load, lambda: sorted({*namespace, *namespace["__all__"]})


def load_av(purpose: str) -> Any:
    """Import PyAV, the bindings of FFmpeg, which log nothing by default; arguments and errors as for `load_cv2`."""
    import_optional("av.filter", "av", "video", purpose)
    return import_optional("av", "av", "video", purpose)


def load_cv2(purpose: str) -> Any:
    """Import OpenCV.

    Args:
        purpose: purpose in the error message, such as `drawing results`.

    Returns:
        The module `cv2`.

    Raises:
        MissingDependencyError: OpenCV is not installed.
        IdolError: OpenCV is installed but cannot be loaded.
    """
    return import_optional("cv2", "opencv-python", "video", purpose)
