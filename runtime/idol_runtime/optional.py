"""The optional packages of the runtime, each loaded by the function that needs it and never earlier."""

import importlib
import os
from typing import Any

from idol_runtime.errors import IdolError, MissingDependencyError

__all__ = ["import_optional", "load_cv2"]


def import_optional(module: str, package: str, extra: str, purpose: str) -> Any:
    """Import an optional module.

    Args:
        module: what to import, such as `cv2`.
        package: the distribution that brings it, such as `opencv-python`.
        extra: the extra of this project that installs it.
        purpose: what the user wanted, such as `reading video`.

    Returns:
        The module.

    Raises:
        MissingDependencyError: the package is not installed.
        IdolError: the package is installed and cannot be loaded.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] == module.partition(".")[0]:
            raise MissingDependencyError(package, extra, purpose) from error
        raise IdolError(f"{purpose} needs {package}, which lacks a module of its own: {error}") from error
    except ImportError as error:
        hint = "; without a screen, install opencv-python-headless in its place" if module == "cv2" else ""
        raise IdolError(f"{purpose} needs {package}, which cannot be loaded: {error}{hint}") from error


def load_cv2(purpose: str) -> Any:
    """Import OpenCV with FFmpeg's own messages turned off.

    What FFmpeg prints names neither the file nor a fix, and it quotes a stream's password. It reads this
    setting once, when the first video is opened; a value that the user has set stays.

    Args:
        purpose: what the user wanted, such as `reading video`.

    Returns:
        The module `cv2`.

    Raises:
        MissingDependencyError: OpenCV is not installed.
        IdolError: OpenCV is installed and cannot be loaded.
    """
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    return import_optional("cv2", "opencv-python", "video", purpose)
