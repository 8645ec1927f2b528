"""numpy's products on one thread.

OpenBLAS's threads spin for tens of milliseconds after a product, in case there is another, on the cores that the
network of the next frame needs: a small network's frames took twice as long on two cores. The products of a frame are
too small to gain what that costs.
"""

import threading
from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar, cast

import numpy  # noqa: F401 - its library must be there to be found
from threadpoolctl import ThreadpoolController

__all__ = ["one_blas_thread"]

_F = TypeVar("_F", bound=Callable[..., Any])

_LIBRARIES = ThreadpoolController()
_LIMITING = threading.Lock()


def one_blas_thread(function: _F) -> _F:
    """A function that multiplies, on one thread.

    The number of threads is the process's: it is 1 while the function runs, and then what it was. Of calls that run at
    once in several threads the first limits it, and ends that: two would take each other's 1 for what it was.
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
