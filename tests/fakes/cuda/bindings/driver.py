"""A fake of cuda-python's driver bindings with one device, stricter than a real one.

Addresses of device memory are invalid on the host, queued calls run only when a stream is waited for, and asynchronous
copies require pinned memory. Streams and memory are of the context in which they were made, and are refused in another.
Tests inspect `device`.
"""

import ctypes
import enum
import itertools
import os
import struct
import threading


class CUresult(enum.IntEnum):
    CUDA_SUCCESS = 0
    CUDA_ERROR_INVALID_VALUE = 1
    CUDA_ERROR_OUT_OF_MEMORY = 2
    CUDA_ERROR_NOT_INITIALIZED = 3
    CUDA_ERROR_INVALID_DEVICE = 101
    CUDA_ERROR_INVALID_CONTEXT = 201
    CUDA_ERROR_INVALID_HANDLE = 400
    CUDA_ERROR_ILLEGAL_ADDRESS = 700
    CUDA_ERROR_CONTEXT_IS_DESTROYED = 709
    CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED = 900
    CUDA_ERROR_STREAM_CAPTURE_INVALIDATED = 901


class CUdevice_attribute(enum.IntEnum):  # noqa: N801
    CU_DEVICE_ATTRIBUTE_PCI_BUS_ID = 33
    CU_DEVICE_ATTRIBUTE_PCI_DEVICE_ID = 34
    CU_DEVICE_ATTRIBUTE_PCI_DOMAIN_ID = 50
    CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR = 75
    CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR = 76


class CUstreamCaptureMode(enum.IntEnum):
    CU_STREAM_CAPTURE_MODE_GLOBAL = 0
    CU_STREAM_CAPTURE_MODE_THREAD_LOCAL = 1
    CU_STREAM_CAPTURE_MODE_RELAXED = 2


class CUDA_MEMCPY2D:  # noqa: N801
    """Read the structure of cuda.h at an address: two places of seven fields, then width and height."""

    def __init__(self, _ptr):
        fields = struct.unpack("QQiQQQQ" * 2 + "QQ", ctypes.string_at(_ptr, 128))
        self.source, self.target = (
            dict(zip(("x", "y", "kind", "host", "device", "array", "pitch"), fields[i : i + 7], strict=True))
            for i in (0, 7)
        )
        self.width, self.height = fields[14:]


class _Handle(int):
    """An object with a number, as in cuda-python."""


class DriverError(Exception):
    def __init__(self, status):
        super().__init__(status.name)
        self.status = status


class Device:
    """The state of the device; `device` is the only instance."""

    name = os.environ.get("FAKE_GPU", "Fake Orin")
    capability = (8, 7)
    pci = (0, 0x41, 0)  # domain, bus, device
    version = 12060
    memory_bytes = 2**31

    def __init__(self):
        self.initialised = False
        self.retained = 0
        self.contexts = set()
        self.ordinals = {}  # context: index of its device, if that is not 0
        self.current = threading.local()  # `stack`: handles of contexts, the current one last
        self.made_in = {}  # address or stream: context
        self.memory = {}  # address: bytearray
        self.pinned = {}  # address: ctypes buffer
        self.streams = {}  # handle: queued calls
        self.default = []  # queued calls of the default stream
        self.captures = {}  # stream: recorded calls, or None once invalidated
        self.graphs, self.executables = {}, {}
        self.calls = []
        self._handles = itertools.count(16)
        self._addresses = itertools.count(0x7000_0000_0000, 2**36)

    def handle(self):
        return _Handle(next(self._handles))

    def alive(self):
        """Return the numbers of objects that were not released."""
        held = (self.memory, self.pinned, self.streams, self.graphs, self.executables)
        return [len(kind) for kind in held] + [self.retained]

    @property
    def stack(self):
        """The calling thread's contexts, the current one last."""
        return self.current.__dict__.setdefault("stack", [])

    def make_context(self):
        """Return a new context, as cuCtxCreate does; it is current."""
        context = self.handle() + 0xC00
        self.contexts.add(context)
        self.stack.append(context)
        return context

    def ready(self):
        if not self.initialised:
            raise DriverError(CUresult.CUDA_ERROR_NOT_INITIALIZED)
        if not self.stack:
            raise DriverError(CUresult.CUDA_ERROR_INVALID_CONTEXT)
        if self.stack[-1] not in self.contexts:
            raise DriverError(CUresult.CUDA_ERROR_CONTEXT_IS_DESTROYED)

    def make(self, kind, handle, content):
        """Add an object to the current context."""
        self.ready()
        kind[int(handle)] = content
        self.made_in[int(handle)] = self.stack[-1]
        return handle

    def take(self, kind, handle, status=CUresult.CUDA_ERROR_INVALID_VALUE):
        """Remove an object; its context must be current."""
        self.ready()
        if self.made_in.pop(int(handle), None) != self.stack[-1] or kind.pop(int(handle), None) is None:
            raise DriverError(status)

    def at(self, address, size):
        """A view of device memory."""
        for base, memory in self.memory.items():
            mine = not self.stack or self.made_in[base] == self.stack[-1]
            if mine and base <= address and address + size <= base + len(memory):
                return memoryview(memory)[address - base : address - base + size]
        raise DriverError(CUresult.CUDA_ERROR_ILLEGAL_ADDRESS)

    def host(self, address, size):
        """A view of pinned memory."""
        for base, buffer in self.pinned.items():
            if base <= address and address + size <= base + len(buffer):
                return memoryview(buffer).cast("B")[address - base : address - base + size]
        raise DriverError(CUresult.CUDA_ERROR_INVALID_VALUE)

    def capturing(self, stream):
        return int(stream) in self.captures

    def queue(self, stream, call):
        """Queue a call in a stream, or record it during a capture."""
        if int(stream) not in DEFAULT and self.made_in.get(int(stream)) != self.stack[-1]:
            raise DriverError(CUresult.CUDA_ERROR_INVALID_HANDLE)
        if self.capturing(stream):
            recorded = self.captures[int(stream)]
            if recorded is not None:
                recorded.append(call)
        else:
            self.queued(stream).append(call)

    def queued(self, stream):
        """The queued calls of a stream."""
        if int(stream) in DEFAULT:
            return self.default
        if int(stream) not in self.streams:
            raise DriverError(CUresult.CUDA_ERROR_INVALID_HANDLE)
        return self.streams[int(stream)]


DEFAULT = 0, 1
device = Device()


def _api(function):
    def call(*arguments):
        device.calls.append(function.__name__)
        try:
            out = function(*arguments)
        except DriverError as failure:
            status = failure.status
            returns = function.__annotations__.get("return") is not None
            return (status, None) if returns else (status,)
        return (CUresult.CUDA_SUCCESS,) if out is None else (CUresult.CUDA_SUCCESS, out)

    call.__name__ = function.__name__
    return call


@_api
def cuInit(flags) -> None:  # noqa: N802
    device.initialised = True


@_api
def cuDriverGetVersion() -> int:  # noqa: N802
    return device.version


@_api
def cuDeviceGetCount() -> int:  # noqa: N802
    return 1


@_api
def cuDeviceGet(ordinal) -> int:  # noqa: N802
    if ordinal != 0:
        raise DriverError(CUresult.CUDA_ERROR_INVALID_DEVICE)
    return _Handle(0)


@_api
def cuDeviceGetName(length, dev) -> bytes:  # noqa: N802
    return device.name.encode().ljust(length, b"\0")


@_api
def cuDeviceGetAttribute(attrib, dev) -> int:  # noqa: N802
    assert isinstance(attrib, CUdevice_attribute), "cuda-python takes an enumeration"
    place = dict(zip((50, 33, 34), device.pci, strict=True))
    return place[attrib] if attrib in place else device.capability[attrib - 75]


@_api
def cuDevicePrimaryCtxRetain(dev) -> int:  # noqa: N802
    device.retained += 1
    device.contexts.add(0xC0)
    return _Handle(0xC0)


@_api
def cuDevicePrimaryCtxRelease(dev) -> None:  # noqa: N802
    device.retained -= 1
    if not device.retained:
        device.contexts.discard(0xC0)


@_api
def cuCtxSetCurrent(ctx) -> None:  # noqa: N802
    device.stack[-1:] = [int(ctx)]


@_api
def cuCtxGetCurrent() -> int:  # noqa: N802
    return _Handle(device.stack[-1] if device.stack else 0)


@_api
def cuCtxGetDevice() -> int:  # noqa: N802
    device.ready()
    return _Handle(device.ordinals.get(device.stack[-1], 0))


@_api
def cuCtxPushCurrent(ctx) -> None:  # noqa: N802
    if int(ctx) not in device.contexts:
        raise DriverError(CUresult.CUDA_ERROR_CONTEXT_IS_DESTROYED)
    device.stack.append(int(ctx))


@_api
def cuCtxPopCurrent() -> int:  # noqa: N802
    if not device.stack:
        raise DriverError(CUresult.CUDA_ERROR_INVALID_CONTEXT)
    return _Handle(device.stack.pop())


@_api
def cuCtxSynchronize() -> None:  # noqa: N802
    device.ready()
    for stream in (0, *device.streams):
        if stream in DEFAULT or device.made_in[stream] == device.stack[-1]:
            _drain(stream)


@_api
def cuMemAlloc(bytesize) -> int:  # noqa: N802
    device.ready()
    if bytesize < 1:
        raise DriverError(CUresult.CUDA_ERROR_INVALID_VALUE)
    if bytesize + sum(map(len, device.memory.values())) > device.memory_bytes:
        raise DriverError(CUresult.CUDA_ERROR_OUT_OF_MEMORY)
    address = next(device._addresses)
    device.make(device.memory, address, bytearray(b"\xff" * bytesize))  # NaN in every type
    return _Handle(address)


@_api
def cuMemFree(dptr) -> None:  # noqa: N802
    device.take(device.memory, dptr)


@_api
def cuMemHostAlloc(bytesize, flags) -> int:  # noqa: N802
    device.ready()
    buffer = (ctypes.c_uint8 * bytesize)()
    address = ctypes.addressof(buffer)
    device.pinned[address] = buffer
    return address


@_api
def cuMemFreeHost(p) -> None:  # noqa: N802
    if device.pinned.pop(int(p), None) is None:
        raise DriverError(CUresult.CUDA_ERROR_INVALID_VALUE)


@_api
def cuMemcpyHtoD(dst, src, size) -> None:  # noqa: N802
    device.ready()
    device.at(int(dst), size)[:] = ctypes.string_at(int(src), size)


@_api
def cuMemcpyDtoH(dst, src, size) -> None:  # noqa: N802
    device.ready()
    ctypes.memmove(int(dst), bytes(device.at(int(src), size)), size)


@_api
def cuMemcpyHtoDAsync(dst, src, size, stream) -> None:  # noqa: N802
    device.ready()
    to, come = device.at(int(dst), size), device.host(int(src), size)

    def copy():
        to[:] = come

    device.queue(stream, copy)


@_api
def cuMemcpyDtoHAsync(dst, src, size, stream) -> None:  # noqa: N802
    device.ready()
    to, come = device.host(int(dst), size), device.at(int(src), size)

    def copy():
        to[:] = come

    device.queue(stream, copy)


@_api
def cuMemcpy2DAsync(copy, stream) -> None:  # noqa: N802
    device.ready()
    assert isinstance(copy, CUDA_MEMCPY2D), "cuda-python takes its own structure"
    places = []
    for place in (copy.source, copy.target):
        assert (place["kind"], place["x"], place["y"], place["host"], place["array"]) == (2, 0, 0, 0, 0)
        if not copy.width <= place["pitch"] < 2**31:
            raise DriverError(CUresult.CUDA_ERROR_INVALID_VALUE)
        starts = [place["device"] + row * place["pitch"] for row in range(copy.height)]
        places.append([device.at(start, copy.width) for start in starts])

    def rows():
        for come, to in zip(*places, strict=True):
            to[:] = come

    device.queue(stream, rows)


@_api
def cuStreamCreate(flags) -> int:  # noqa: N802
    return device.make(device.streams, device.handle(), [])


@_api
def cuStreamDestroy(stream) -> None:  # noqa: N802
    device.take(device.streams, stream, CUresult.CUDA_ERROR_INVALID_HANDLE)


@_api
def cuStreamGetCtx(stream) -> int:  # noqa: N802
    if int(stream) not in device.streams:
        raise DriverError(CUresult.CUDA_ERROR_INVALID_HANDLE)
    return _Handle(device.made_in[int(stream)])


def _drain(stream):
    queued = device.queued(stream)
    while queued:
        queued.pop(0)()


@_api
def cuStreamSynchronize(stream) -> None:  # noqa: N802
    device.ready()
    if device.capturing(stream):
        device.captures[int(stream)] = None
        raise DriverError(CUresult.CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED)
    _drain(stream)


@_api
def cuStreamBeginCapture(stream, mode) -> None:  # noqa: N802
    device.ready()
    assert isinstance(mode, CUstreamCaptureMode), "cuda-python takes an enumeration"
    if int(stream) in DEFAULT:
        raise DriverError(CUresult.CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED)
    if device.capturing(stream):
        raise DriverError(CUresult.CUDA_ERROR_INVALID_VALUE)
    device.captures[int(stream)] = []


@_api
def cuStreamEndCapture(stream) -> int:  # noqa: N802
    recorded = device.captures.pop(int(stream))
    if recorded is None:
        raise DriverError(CUresult.CUDA_ERROR_STREAM_CAPTURE_INVALIDATED)
    handle = device.handle()
    device.graphs[int(handle)] = recorded
    return handle


@_api
def cuGraphInstantiate(graph, flags) -> int:  # noqa: N802
    handle = device.handle()
    device.executables[int(handle)] = list(device.graphs[int(graph)])
    return handle


@_api
def cuGraphLaunch(executable, stream) -> None:  # noqa: N802
    device.ready()
    for call in device.executables[int(executable)]:
        device.queue(stream, call)


@_api
def cuGraphExecDestroy(executable) -> None:  # noqa: N802
    if device.executables.pop(int(executable), None) is None:
        raise DriverError(CUresult.CUDA_ERROR_INVALID_HANDLE)


@_api
def cuGraphDestroy(graph) -> None:  # noqa: N802
    if device.graphs.pop(int(graph), None) is None:
        raise DriverError(CUresult.CUDA_ERROR_INVALID_HANDLE)
