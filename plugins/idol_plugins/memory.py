"""Memory for the arrays of a kernel call: of this process, or of a CUDA device without PyTorch."""

import contextlib
from collections.abc import Iterator
from typing import TypeAlias

import numpy as np

from idol_plugins.cuda_driver import CtypesDriver
from idol_plugins.reference import Array

__all__ = ["CudaMemory", "HostMemory", "Memory"]


class HostMemory:
    """Memory of this process."""

    def __init__(self) -> None:
        self._arrays: dict[int, Array] = {}

    @contextlib.contextmanager
    def scope(self) -> Iterator[None]:
        """Return a context that frees, at its end, everything that was put into the memory inside it."""
        try:
            yield
        finally:
            self._arrays.clear()

    def put(self, array: Array) -> int:
        """Copy an array into the memory and return its address, a multiple of 64."""
        buffer = np.empty(array.nbytes + 63, np.uint8)
        start = -buffer.ctypes.data % 64
        copy = buffer[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
        copy[...] = array
        pointer = buffer.ctypes.data + start
        self._arrays[pointer] = copy
        return pointer

    def get(self, pointer: int, like: Array) -> Array:
        """Return a copy of what is at an address of `put`, with the shape and type of another array."""
        return self._arrays[pointer].view(like.dtype).reshape(like.shape).copy()


class CudaMemory(contextlib.AbstractContextManager["CudaMemory"]):
    """Memory of the first CUDA device, in the primary context that all libraries of a process share.

    Attributes:
        device: Name of the device.
    """

    def __init__(self) -> None:
        """Open the first device.

        Raises:
            PluginError: There is no driver or no device.
        """
        self._call = (driver := CtypesDriver()).call
        self._pointers: list[int] = []
        self._call("cuInit", 0)
        self._index = self._call("cuDeviceGet", 0)
        self.device = driver.device_name(self._index)
        self._call("cuCtxSetCurrent", self._call("cuDevicePrimaryCtxRetain", self._index))

    def __exit__(self, *_: object) -> None:
        self._call("cuDevicePrimaryCtxRelease", self._index)

    @contextlib.contextmanager
    def scope(self) -> Iterator[None]:
        """Return a context that frees, at its end, everything that was put into the memory inside it."""
        try:
            yield
        finally:
            while self._pointers:
                self._call("cuMemFree", self._pointers.pop())

    def put(self, array: Array) -> int:
        """Copy an array into the memory and return its address, a multiple of 256."""
        array = np.ascontiguousarray(array)
        # At least one byte, because an empty array needs an address as well.
        pointer = int(self._call("cuMemAlloc", max(1, array.nbytes)))
        self._pointers.append(pointer)
        if array.nbytes:
            self._call("cuMemcpyHtoD", pointer, array.ctypes.data, array.nbytes)
        return pointer

    def get(self, pointer: int, like: Array) -> Array:
        """Wait for the device and return a copy of what is at an address, with the shape and type of another array."""
        self._call("cuCtxSynchronize")
        array = np.empty_like(like)
        if array.nbytes:
            self._call("cuMemcpyDtoH", array.ctypes.data, pointer, array.nbytes)
        return array


Memory: TypeAlias = HostMemory | CudaMemory
