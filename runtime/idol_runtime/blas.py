"""numpy's matrix products on one thread.

OpenBLAS's threads spin for tens of milliseconds after a product, on the cores that the next frame's network needs: on
two cores, frames of a small network took twice as long. The products of a frame are too small to gain from threads.
"""

import contextlib
import threading
from collections.abc import Iterator

import numpy  # noqa: F401 - threadpoolctl finds the library only after its import
from threadpoolctl import ThreadpoolController

__all__ = ["one_blas_thread"]

_LIBRARIES = ThreadpoolController()
_LIMITING = threading.Lock()


@contextlib.contextmanager
def one_blas_thread() -> Iterator[None]:
    """Limit BLAS to one thread in a `with` block or, as a decorator, in a function.

    The limit holds for the whole process. Of several calls at the same time only the first sets and restores it:
    otherwise a later call would save the limit of 1 as the previous value.
    """
    if not _LIMITING.acquire(blocking=False):
        yield
        return
    try:
        with _LIBRARIES.limit(limits=1, user_api="blas"):
            yield
    finally:
        _LIMITING.release()
