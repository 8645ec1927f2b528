"""OpenCV for drawing, looked up once: frames are drawn by thousands of its calls."""

import functools
from typing import Any

from idol_runtime.optional import load_cv2

__all__ = ["opencv"]


@functools.cache
def opencv() -> Any:
    """The module `cv2`.

    Raises:
        MissingDependencyError: OpenCV is not installed.
    """
    return load_cv2("drawing synthetic videos")
