"""Arrays on the first CUDA device, through the driver's own library: enough to test a kernel without PyTorch."""

import contextlib
from collections.abc import Iterator
from types import TracebackType
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from idol_plugins.cuda_driver import CtypesDriver

__all__ = ["CudaMemory"]

Array: TypeAlias = NDArray[Any]


class CudaMemory:
    """The device's primary context, the one that every library in the process shares.

    Attributes:
        device: its name.
    """

    def __init__(self) -> None:
        """Take the first device.

        Raises:
            PluginError: there is no driver, or no device.
        """
        self._driver = CtypesDriver()
        self._pointers: list[int] = []
        self._driver.call("cuInit", 0)
        self._index = self._driver.call("cuDeviceGet", 0)
        self.device = self._driver.device_name(self._index)
        self._driver.call("cuCtxSetCurrent", self._driver.call("cuDevicePrimaryCtxRetain", self._index))

    def __enter__(self) -> "CudaMemory":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._driver.call("cuDevicePrimaryCtxRelease", self._index)

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Frees at its end what was put on the device within it."""
        try:
            yield
        finally:
            while self._pointers:
                self._driver.call("cuMemFree", self._pointers.pop())

    def put(self, array: Array) -> int:
        """The address of a copy on the device."""
        array = np.ascontiguousarray(array)
        # At least a byte: an empty array has an address, too.
        pointer = int(self._driver.call("cuMemAlloc", max(1, array.nbytes)))
        self._pointers.append(pointer)
        if array.nbytes:
            self._driver.call("cuMemcpyHtoD", pointer, array.ctypes.data, array.nbytes)
        return pointer

    def get(self, pointer: int, like: Array) -> Array:
        """A copy of what is at the address, of another array's shape and type, once all work is done."""
        self._driver.call("cuCtxSynchronize")
        array = np.empty_like(like)
        if array.nbytes:
            self._driver.call("cuMemcpyDtoH", array.ctypes.data, pointer, array.nbytes)
        return array
