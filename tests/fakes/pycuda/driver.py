"""A fake of `pycuda.driver` on the fake device: contexts, streams and arrays.

As in PyCUDA, each thread has a stack of contexts, of which only the top is on the driver's stack. Stricter than PyCUDA:
every call checks that the driver's stack has that context alone, so that whoever changed it is found.
"""

import threading

from cuda.bindings import driver

_local = threading.local()


def _stack():
    return _local.__dict__.setdefault("stack", [])


def _check():
    current = [context.handle for context in _stack()[-1:]]
    assert driver.device.stack == current, f"the driver has {driver.device.stack}, PyCUDA left {current}"


def _leave():
    if _stack():
        driver.cuCtxPopCurrent()


def init():
    driver.cuInit(0)


class Device:
    def __init__(self, ordinal):
        self.ordinal = ordinal

    def make_context(self):
        _check()
        _leave()
        context = Context(driver.device.make_context())
        _stack().append(context)
        return context


class Context:
    def __init__(self, handle):
        self.handle = handle

    def push(self):
        _check()
        _leave()
        driver.cuCtxPushCurrent(self.handle)
        _stack().append(self)

    @staticmethod
    def pop():
        _check()
        _leave()
        _stack().pop()
        if _stack():
            driver.cuCtxPushCurrent(_stack()[-1].handle)

    def detach(self):
        _check()
        assert _stack()[-1] is self
        Context.pop()
        driver.device.contexts.discard(self.handle)


class Stream:
    def __init__(self, flags=0):
        _check()
        self.handle = int(driver.cuStreamCreate(flags)[1])

    def free(self):
        _check()
        driver.cuStreamDestroy(self.handle)


class GPUArray:
    """An array of uint8; PyCUDA's version of the interface has no stream."""

    def __init__(self, array, pitch=None):
        _check()
        height, width = array.shape[0], array.shape[1] * 3
        self.pitch = pitch or width
        self.gpudata = int(driver.cuMemAlloc(self.pitch * height)[1])
        for row in range(height):
            driver.device.at(self.gpudata + row * self.pitch, width)[:] = array[row].tobytes()
        self.__cuda_array_interface__ = {
            "shape": array.shape,
            "typestr": "|u1",
            "data": (self.gpudata, False),
            "strides": (self.pitch, 3, 1),
            "stream": None,
            "version": 3,
        }

    def free(self):
        _check()
        driver.cuMemFree(self.gpudata)
