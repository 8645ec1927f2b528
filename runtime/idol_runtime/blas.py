"""numpy's matrix products on one thread.

OpenBLAS's threads spin for tens of milliseconds after a product, on the cores that the next frame's network needs: on
two cores, frames of a small network took twice as long. The products of a frame are too small to gain from threads.
"""

import threading
from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar, cast

import numpy  # noqa: F401 - threadpoolctl finds the library only after its import
from threadpoolctl import ThreadpoolController

__all__ = ["one_blas_thread"]

_F = TypeVar("_F", bound=Callable[..., Any])

_LIBRARIES = ThreadpoolController()
_LIMITING = threading.Lock()


def one_blas_thread(function: _F) -> _F:
    """Limit BLAS to one thread while the function runs.

    The limit holds for the whole process. Of several calls at the same time only the first sets and restores it:
    otherwise a later call would save the limit of 1 as the previous value.
    """

    @wraps(function)
    def wrapped(*arguments: Any, **options: Any) -> Any:
        if not _LIMITING.acquire(blocking=False):
            return function(*arguments, **options)
        try:
            with _LIBRARIES.limit(limits=1, user_api="blas"):
                return function(*arguments, **options)
        finally:
            _LIMITING.release()

    return cast(_F, wrapped)
