"""Where a plugin's tensors may be, and the one that is always there: this process's own memory."""

import contextlib
from collections.abc import Iterator
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

__all__ = ["HostMemory", "Memory"]

Array: TypeAlias = NDArray[Any]


class Memory(Protocol):
    """Where a plugin's tensors are: `HostMemory`, or `idol_plugins.cuda_memory.CudaMemory`."""

    def put(self, array: Array) -> int:
        """The address of a copy, a multiple of 16."""

    def get(self, pointer: int, like: Array) -> Array:
        """What is at an address that `put` gave, of another array's shape and type, once all work is done."""

    def held(self) -> contextlib.AbstractContextManager[None]:
        """Frees at its end what was put within it."""


class HostMemory:
    """This process's own."""

    def __init__(self) -> None:
        self._arrays: dict[int, Array] = {}

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Frees at its end what was put within it."""
        try:
            yield
        finally:
            self._arrays.clear()

    def put(self, array: Array) -> int:
        """The address of a copy."""
        room = np.empty(array.nbytes + 63, np.uint8)
        start = -room.ctypes.data % 64
        copy = room[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
        copy[...] = array
        pointer = room.ctypes.data + start
        self._arrays[pointer] = copy
        return pointer

    def get(self, pointer: int, like: Array) -> Array:
        """A copy of what is at the address."""
        return self._arrays[pointer].view(like.dtype).reshape(like.shape).copy()
