"""One CUDA device, as an engine needs it: pinned and device memory in pairs, a stream, and recorded work."""

import ctypes
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from idol_plugins.cuda_driver import Driver, open_driver
from idol_plugins.errors import PluginError
from idol_runtime.errors import BackendError

__all__ = ["Buffer", "CudaDevice", "device_index", "pci_bus_id"]

_CAPABILITY = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, _MINOR
_PLACE = 50, 33, 34  # CU_DEVICE_ATTRIBUTE_PCI_DOMAIN_ID, _BUS_ID, _DEVICE_ID
_NON_BLOCKING = 1  # CU_STREAM_NON_BLOCKING: does not wait for the default stream
_THREAD_LOCAL = 1  # CU_STREAM_CAPTURE_MODE_THREAD_LOCAL: other threads may allocate meanwhile
_KERNEL_MODULE = Path("/proc/driver/nvidia/version")


def device_index(device: str) -> int:
    """The number of `cuda` or `cuda:N`; `auto` is the first.

    Raises:
        BackendError: it names no CUDA device.
    """
    kind, _, index = device.partition(":")
    if (kind not in ("cuda", "auto")) or (kind == "auto" and index) or not (index or "0").isdecimal():
        raise BackendError(f"TensorRT does not run on {device!r}; use --device cuda or cuda:N")
    return int(index or "0")


def pci_bus_id(index: int) -> str:
    """Where a device is plugged in, by which NVIDIA's tools know it: they count others than CUDA, in another order.

    Raises:
        BackendError: there is no driver, or no such device.
    """
    try:
        driver = open_driver()
        device = driver.call("cuDeviceGet", index)
        domain, bus, slot = (int(driver.call("cuDeviceGetAttribute", part, device)) for part in _PLACE)
    except PluginError as error:
        raise BackendError(str(error)) from error
    return f"{domain:08x}:{bus:02x}:{slot:02x}.0"


@dataclass(frozen=True)
class Buffer:
    """Memory on the device, and as much on the host that the device can reach by itself.

    Attributes:
        device: address on the device.
        host: [n] uint8, pinned.
    """

    device: int
    host: NDArray[np.uint8]

    def view(self, shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
        """The beginning of the host's memory as an array."""
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        array: NDArray[Any] = self.host[:size].view(dtype).reshape(shape)
        return array


class CudaDevice:
    """A device's primary context, which it shares with TensorRT, and a stream of our own.

    Attributes:
        index: of the device, as CUDA counts.
        name: of the device.
        capability: compute capability, `8.7`.
        driver: the CUDA version that the driver serves and, where it can be read, its own.
        stream: its address.
    """

    def __init__(self, index: int = 0) -> None:
        """Take a device.

        Raises:
            BackendError: there is no driver, or no such device.
        """
        self.index = index
        self._buffers: list[Buffer] = []
        self._stream: Any = None
        try:
            self._driver: Driver = open_driver()
        except PluginError as error:
            raise BackendError(str(error)) from error
        count = int(self._call("cuDeviceGetCount"))
        if index >= count:
            raise BackendError(
                f"there is no CUDA device {index}, there are {count}; use --device cuda:N with N below"
            )
        self._device = self._call("cuDeviceGet", index)
        self.name = self._name()
        self.capability = ".".join(
            str(self._call("cuDeviceGetAttribute", attribute, self._device)) for attribute in _CAPABILITY
        )
        self.driver = _driver_version(int(self._call("cuDriverGetVersion")))
        self._context = self._call("cuDevicePrimaryCtxRetain", self._device)
        self.activate()
        self._stream = self._call("cuStreamCreate", _NON_BLOCKING)
        self.stream = int(self._stream)

    def activate(self) -> None:
        """Make it the calling thread's device: CUDA keeps one per thread."""
        self._call("cuCtxSetCurrent", self._context)

    def buffer(self, size: int) -> Buffer:
        """Memory of `size` bytes, here and there, until `close`."""
        host = int(self._call("cuMemHostAlloc", size, 0))
        array = np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(host))
        try:
            buffer = Buffer(int(self._call("cuMemAlloc", size)), array)
        except BackendError:
            self._call("cuMemFreeHost", host)
            raise
        self._buffers.append(buffer)
        return buffer

    def upload(self, buffer: Buffer, size: int) -> None:
        """Queue a copy of the first `size` bytes to the device."""
        self._call("cuMemcpyHtoDAsync", buffer.device, buffer.host.ctypes.data, size, self._stream)

    def download(self, buffer: Buffer, size: int) -> None:
        """Queue a copy of the first `size` bytes from the device; they are there after `synchronize`."""
        self._call("cuMemcpyDtoHAsync", buffer.host.ctypes.data, buffer.device, size, self._stream)

    def synchronize(self) -> None:
        """Wait until all that was queued is done."""
        self._call("cuStreamSynchronize", self._stream)

    def record(self, work: Callable[[], None]) -> Any:
        """What `work` queues as one graph, which is not run yet; give it to `launch` and then to `forget`.

        Raises:
            BackendError: something in it cannot be recorded; the stream can be used on.
        """
        self._call("cuStreamBeginCapture", self._stream, _THREAD_LOCAL)
        try:
            work()
        except BaseException:
            self._abandon()
            raise
        graph = self._call("cuStreamEndCapture", self._stream)
        try:
            return self._call("cuGraphInstantiate", graph, 0)
        finally:
            self._call("cuGraphDestroy", graph)

    def launch(self, graph: Any) -> None:
        """Queue a recorded graph."""
        self._call("cuGraphLaunch", graph, self._stream)

    def forget(self, graph: Any) -> None:
        """Free a recorded graph."""
        self._call("cuGraphExecDestroy", graph)

    def close(self) -> None:
        """Free everything, once all work is done; again is no harm."""
        if self._stream is None:
            return
        self.activate()
        self.synchronize()
        while self._buffers:
            buffer = self._buffers.pop()
            self._call("cuMemFree", buffer.device)
            self._call("cuMemFreeHost", buffer.host.ctypes.data)
        self._call("cuStreamDestroy", self._stream)
        self._stream = None
        self._call("cuDevicePrimaryCtxRelease", self._device)

    def _abandon(self) -> None:
        """End a recording that failed; until then the stream takes no other work."""
        try:
            graph = self._call("cuStreamEndCapture", self._stream)
        except BackendError:  # what was recorded is invalid, as expected
            return
        if graph:
            self._call("cuGraphDestroy", graph)

    def _name(self) -> str:
        try:
            return self._driver.device_name(self._device)
        except PluginError as error:
            raise BackendError(str(error)) from error

    def _call(self, name: str, *arguments: Any) -> Any:
        try:
            return self._driver.call(name, *arguments)
        except PluginError as error:
            raise BackendError(str(error)) from error


def _driver_version(cuda: int) -> str:
    version = f"{cuda // 1000}.{cuda % 1000 // 10}"
    try:
        module = re.search(r"\b\d+(\.\d+)+\b", _KERNEL_MODULE.read_text())
    except OSError:  # not on every Jetson
        module = None
    return f"{version} ({module[0]})" if module else version
