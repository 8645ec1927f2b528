"""Import of optional packages by the functions that need them."""

import importlib
import os
from typing import Any

from idol_runtime.errors import IdolError, MissingDependencyError

__all__ = ["import_optional", "load_cv2"]


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


def load_cv2(purpose: str) -> Any:
    """Import OpenCV with FFmpeg's messages turned off.

    FFmpeg's messages name neither the file nor a fix, and they show a stream's password. FFmpeg reads this setting when
    the first video is opened. A value set by the user stays.

    Args:
        purpose: purpose in the error message, such as `reading video`.

    Returns:
        The module `cv2`.

    Raises:
        MissingDependencyError: OpenCV is not installed.
        IdolError: OpenCV is installed but cannot be loaded.
    """
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    return import_optional("cv2", "opencv-python", "video", purpose)
