"""A CUDA device for an inference engine: paired host and device memory, a stream, and CUDA graphs."""

import contextlib
import ctypes
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from idol_plugins.cuda_driver import Driver, Memcpy2D, open_driver
from idol_plugins.errors import PluginError
from idol_runtime.errors import BackendError, ConfigError

__all__ = ["Buffer", "CudaDevice", "device_index", "pci_bus_id"]

_CAPABILITY = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, _MINOR
_PCI = 50, 33, 34  # CU_DEVICE_ATTRIBUTE_PCI_DOMAIN_ID, _BUS_ID, _DEVICE_ID
_DEFAULT_STREAMS = 0, 1  # the default stream and CU_STREAM_LEGACY
_ANY_CONTEXT = 0, 1, 2  # these and CU_STREAM_PER_THREAD are of the current context
_KERNEL_MODULE = Path("/proc/driver/nvidia/version")


def device_index(device: str) -> int:
    """Return the index of `cuda` or `cuda:N`; `cuda` and `auto` are the first device.

    Raises:
        BackendError: the device is not a CUDA device.
    """
    kind, _, index = device.partition(":")
    if (device != "auto" and kind != "cuda") or not (index or "0").isdecimal():
        raise BackendError(f"TensorRT does not run on {device!r}; use --device cuda or cuda:N")
    return int(index or "0")


@contextlib.contextmanager
def _backend_errors() -> Iterator[None]:
    """Raise a `PluginError` of the driver as a `BackendError`."""
    try:
        yield
    except PluginError as error:
        raise BackendError(str(error)) from error


def pci_bus_id(index: int) -> str:
    """Return the PCI bus id of a device; NVIDIA's tools need it, because their order of devices differs from CUDA's.

    Raises:
        BackendError: the driver or the device is missing.
    """
    with _backend_errors():
        driver = open_driver()
        device = driver.call("cuDeviceGet", index)
        domain, bus, slot = (int(driver.call("cuDeviceGetAttribute", part, device)) for part in _PCI)
    return f"{domain:08x}:{bus:02x}:{slot:02x}.0"


@dataclass(frozen=True)
class Buffer:
    """Device memory and pinned host memory of the same size.

    Attributes:
        device: address on the device.
        host: [n] uint8 host memory.
    """

    device: int
    host: NDArray[np.uint8]

    def view(self, shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
        """Return the beginning of the host memory as an array."""
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        array: NDArray[Any] = self.host[:size].view(dtype).reshape(shape)
        return array


class CudaDevice:
    """A context of a CUDA device, shared with TensorRT, and a stream in it.

    The context is that of the given stream, else the calling thread's current context if it is of this device (one of
    PyCUDA, for example), else the device's primary context, which PyTorch, CuPy and Numba use. A context or stream of
    the application must stay valid until `close`. Every method leaves the calling thread's current context as it was.

    Attributes:
        index: CUDA's index of the device.
        name: name of the device.
        capability: compute capability, such as `8.7`.
        driver: CUDA version of the driver and, if it can be read, the driver's own version.
        stream: address of the stream.
    """

    def __init__(self, index: int = 0, stream: object = None) -> None:
        """Open a device.

        Args:
            index: CUDA's index of the device.
            stream: stream of the application, of cuda-python, PyCUDA, CuPy, Numba or PyTorch, or its address; None: a
                new stream.

        Raises:
            ConfigError: the stream is no stream, or of another device.
            BackendError: the driver or the device is missing.
        """
        self.index = index
        self._buffers: list[Buffer] = []
        given = None if stream is None else _stream_address(stream)
        with _backend_errors():
            self._driver: Driver = open_driver()
        count = int(self._call("cuDeviceGetCount"))
        if index >= count:
            raise BackendError(
                f"there is no CUDA device {index}, there are {count}; use --device cuda:N with a lower N"
            )
        self._device = self._call("cuDeviceGet", index)
        with _backend_errors():
            self.name = self._driver.device_name(self._device)
        self.capability = ".".join(
            str(self._call("cuDeviceGetAttribute", attribute, self._device)) for attribute in _CAPABILITY
        )
        self.driver = _driver_version(int(self._call("cuDriverGetVersion")))
        bound = given is not None and given not in _ANY_CONTEXT
        context = self._call("cuStreamGetCtx", given) if bound else self._call("cuCtxGetCurrent")
        device = self._device_of(context)
        if bound and device != index:
            raise ConfigError(
                f"the stream is of CUDA device {device}, the network runs on {index}; use device='cuda:{device}'"
            )
        self._primary, self._new_stream = device != index, given is None
        self._context = self._call("cuDevicePrimaryCtxRetain", self._device) if self._primary else context
        self._open = True
        with self.active():
            # 1 is CU_STREAM_NON_BLOCKING: does not wait for the default stream.
            self._stream = self._call("cuStreamCreate", 1) if given is None else given
        self.stream = int(self._stream)

    @contextlib.contextmanager
    def active(self) -> Iterator[None]:
        """Return a context in which the device is the calling thread's current one, as all other methods require."""
        with self._pushed(self._context):
            yield

    def buffer(self, size: int) -> Buffer:
        """Allocate `size` bytes on host and device, until `close`."""
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

    def copy_rows(self, target: int, source: int, pitch: int, rows: int, row_bytes: int) -> None:
        """Queue a copy of rows within the device.

        Args:
            target: address to copy to; its rows follow each other without gaps.
            source: address of the first row.
            pitch: bytes from a row of the source to the next, at least `row_bytes`.
            rows: number of rows.
            row_bytes: bytes of a row.
        """
        copy = Memcpy2D(width_bytes=row_bytes, height=rows)
        for place, address, step in ((copy.source, source, pitch), (copy.target, target, row_bytes)):
            place.memory_type, place.device, place.pitch = 2, address, step  # 2 is CU_MEMORYTYPE_DEVICE
        self._call("cuMemcpy2DAsync", ctypes.addressof(copy), self._stream)

    def wait_for(self, stream: int | None) -> None:
        """Wait for the work of another stream, or of all streams of the context (None)."""
        with self.active():
            if stream is None:
                self._call("cuCtxSynchronize")
            else:
                self._call("cuStreamSynchronize", stream)

    def download(self, buffer: Buffer, size: int) -> None:
        """Queue a copy of the first `size` bytes from the device; it is complete after `synchronize`."""
        self._call("cuMemcpyDtoHAsync", buffer.host.ctypes.data, buffer.device, size, self._stream)

    def synchronize(self) -> None:
        """Wait until all queued work is done."""
        self._call("cuStreamSynchronize", self._stream)

    def record(self, work: Callable[[], None]) -> Any:
        """Record the work that `work` queues as a CUDA graph, without running it; see `launch` and `forget`.

        Raises:
            BackendError: the work cannot be recorded; the stream stays usable.
        """
        if self.stream in _DEFAULT_STREAMS:
            raise BackendError(
                "CUDA does not record the default stream; pass another stream of the application"
            )
        # 1 is CU_STREAM_CAPTURE_MODE_THREAD_LOCAL: other threads may allocate meanwhile.
        self._call("cuStreamBeginCapture", self._stream, 1)
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
        """Free everything after all work is done; a second call does nothing."""
        if not self._open:
            return
        self._open = False
        with self.active():
            self.synchronize()
            while self._buffers:
                buffer = self._buffers.pop()
                self._call("cuMemFree", buffer.device)
                self._call("cuMemFreeHost", buffer.host.ctypes.data)
            if self._new_stream:
                self._call("cuStreamDestroy", self._stream)
        if self._primary:
            self._call("cuDevicePrimaryCtxRelease", self._device)

    @contextlib.contextmanager
    def _pushed(self, context: Any) -> Iterator[None]:
        self._call("cuCtxPushCurrent", context)
        try:
            yield
        finally:
            self._call("cuCtxPopCurrent")

    def _device_of(self, context: Any) -> int | None:
        """Return the index of a context's device; None without a context."""
        if not int(context or 0):
            return None
        with self._pushed(context):
            return int(self._call("cuCtxGetDevice"))

    def _abandon(self) -> None:
        """End a failed recording, so that the stream accepts other work."""
        try:
            graph = self._call("cuStreamEndCapture", self._stream)
        except BackendError:  # as expected after a failure
            return
        if graph:
            self._call("cuGraphDestroy", graph)

    def _call(self, name: str, *arguments: Any) -> Any:
        with _backend_errors():
            return self._driver.call(name, *arguments)


def _stream_address(stream: object) -> int:
    """Return the address of a stream: attribute `handle`, `ptr` or `cuda_stream`, or the number itself."""
    address = stream
    for name in ("handle", "ptr", "cuda_stream", "value"):  # Numba: `handle.value`
        address = getattr(address, name, address)
    try:
        return int(address or 0)  # type: ignore[call-overload, no-any-return]
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"stream must be a CUDA stream, got {type(stream).__name__}; pass the stream of your library or its address"
        ) from error


def _driver_version(cuda: int) -> str:
    version = f"{cuda // 1000}.{cuda % 1000 // 10}"
    try:
        module = re.search(r"\b\d+(\.\d+)+\b", _KERNEL_MODULE.read_text())
    except OSError:  # not on every Jetson
        module = None
    return f"{version} ({module[0]})" if module else version
