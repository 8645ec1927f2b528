"""numpy's products on one thread.

OpenBLAS's threads spin for tens of milliseconds after a product, in case there is another, on the cores that the
network of the next frame needs: a small network's frames took twice as long on two cores. The products of a frame are
too small to gain what that costs.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import numpy  # noqa: F401 - its library must be there to be found
from threadpoolctl import ThreadpoolController

__all__ = ["one_blas_thread"]

_F = TypeVar("_F", bound=Callable[..., Any])

_LIBRARIES = ThreadpoolController()


def one_blas_thread(function: _F) -> _F:
    """A function that multiplies, on one thread.

    The number of threads is the process's: it is 1 while the function runs, and then what it was.
    """
    wrapped: _F = _LIBRARIES.wrap(limits=1, user_api="blas")(function)
    return wrapped
