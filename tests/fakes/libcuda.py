"""A fake of `libcuda.so.1` as ctypes loads it, on the fake device."""

import ctypes
from collections.abc import Callable
from typing import Any

from cuda.bindings import driver

# As in cuda.h: position of the output parameter, and the type that it points to.
RETURNS = {
    "cuDriverGetVersion": (0, ctypes.c_int),
    "cuDeviceGetCount": (0, ctypes.c_int),
    "cuDeviceGet": (0, ctypes.c_int),
    "cuDeviceGetAttribute": (0, ctypes.c_int),
    "cuDevicePrimaryCtxRetain": (0, ctypes.c_void_p),
    "cuCtxGetCurrent": (0, ctypes.c_void_p),
    "cuCtxGetDevice": (0, ctypes.c_int),
    "cuCtxPopCurrent_v2": (0, ctypes.c_void_p),
    "cuStreamGetCtx": (1, ctypes.c_void_p),
    "cuMemAlloc_v2": (0, ctypes.c_uint64),
    "cuMemHostAlloc": (0, ctypes.c_void_p),
    "cuStreamCreate": (0, ctypes.c_void_p),
    "cuStreamEndCapture": (1, ctypes.c_void_p),
    "cuGraphInstantiateWithFlags": (0, ctypes.c_void_p),
}
TYPES = {
    "cuDeviceGetAttribute": (0, "CUdevice_attribute"),
    "cuMemcpy2DAsync": (0, "CUDA_MEMCPY2D"),
    "cuStreamBeginCapture": (1, "CUstreamCaptureMode"),
}


class Library:
    """`libcuda.so.1` as ctypes loads it, with the fake's device."""

    driver = driver

    def __init__(self, name: str) -> None:
        assert name == "libcuda.so.1"

    def __getattr__(self, symbol: str) -> Callable[..., int]:
        name = symbol.removesuffix("_v2").removesuffix("WithFlags")
        place, kind = RETURNS.get(symbol, (None, None))

        def call(*given: Any) -> int:
            arguments, out = list(given), None
            if place is not None:
                out = arguments.pop(place)._obj
                assert type(out) is kind, symbol
            values = [getattr(value, "value", value) or 0 for value in arguments]
            if name in TYPES:
                at, own = TYPES[name]
                values[at] = getattr(self.driver, own)(values[at])
            status, *result = getattr(self.driver, name)(*values)
            if out is not None and result[0] is not None:
                out.value = int(result[0])
            return int(status)

        return call

    def cuDeviceGetName(self, name: Any, length: int, device: Any) -> int:  # noqa: N802
        name.value = self.driver.device.name.encode()[: length - 1]
        return 0

    def cuGetErrorName(self, status: Any, name: Any) -> int:  # noqa: N802
        name._obj.value = self.driver.CUresult(status.value).name.encode()
        return 0
