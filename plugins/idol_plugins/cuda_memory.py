"""Arrays on the first CUDA device, through the driver's own library: enough to test a kernel without PyTorch."""

import contextlib
import ctypes
from collections.abc import Iterator
from types import TracebackType
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from idol_plugins.errors import PluginError

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
        try:
            self._driver = ctypes.CDLL("libcuda.so.1")
        except OSError as error:
            raise PluginError("there is no CUDA driver here; install NVIDIA's") from error
        self._pointers: list[int] = []
        self._index, self._context = ctypes.c_int(), ctypes.c_void_p()
        self._call("cuInit", 0)
        self._call("cuDeviceGet", ctypes.byref(self._index), 0)
        name = ctypes.create_string_buffer(256)
        self._call("cuDeviceGetName", name, 256, self._index)
        self.device = name.value.decode()
        self._call("cuDevicePrimaryCtxRetain", ctypes.byref(self._context), self._index)
        self._call("cuCtxSetCurrent", self._context)

    def __enter__(self) -> "CudaMemory":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._call("cuDevicePrimaryCtxRelease_v2", self._index)

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Frees at its end what was put on the device within it."""
        try:
            yield
        finally:
            while self._pointers:
                self._call("cuMemFree_v2", ctypes.c_uint64(self._pointers.pop()))

    def put(self, array: Array) -> int:
        """The address of a copy on the device."""
        array = np.ascontiguousarray(array)
        pointer = ctypes.c_uint64()
        # At least a byte: an empty array has an address, too.
        self._call("cuMemAlloc_v2", ctypes.byref(pointer), ctypes.c_size_t(max(1, array.nbytes)))
        self._pointers.append(pointer.value)
        if array.nbytes:
            self._call(
                "cuMemcpyHtoD_v2", pointer, ctypes.c_void_p(array.ctypes.data), ctypes.c_size_t(array.nbytes)
            )
        return pointer.value

    def get(self, pointer: int, like: Array) -> Array:
        """A copy of what is at the address, of another array's shape and type, once all work is done."""
        self._call("cuCtxSynchronize")
        array = np.empty_like(like)
        if array.nbytes:
            self._call(
                "cuMemcpyDtoH_v2",
                ctypes.c_void_p(array.ctypes.data),
                ctypes.c_uint64(pointer),
                ctypes.c_size_t(array.nbytes),
            )
        return array

    def _call(self, name: str, *arguments: Any) -> None:
        status = int(getattr(self._driver, name)(*arguments))
        if status:
            raise PluginError(
                f"the CUDA driver's {name} fails with error {status}; does nvidia-smi show a device?"
            )
