"""NVIDIA's driver API under one set of names: through cuda-python if it is installed, else through ctypes.

Both classes take the arguments of the C function without its output parameter, and return that parameter. cuda-python
follows changes of the driver; ctypes needs no package, as on a Jetson. Both work in a context of PyCUDA, whose own
functions are not called, because it has none for CUDA graphs.
"""

import ctypes
import importlib
from ctypes import c_int, c_size_t, c_uint, c_uint64, c_void_p
from typing import Any, TypeAlias

from idol_plugins.errors import PluginError

__all__ = ["CtypesDriver", "Driver", "Memcpy2D", "PythonDriver", "open_driver"]

_NAME_BYTES = 256
_NO_DRIVER = "there is no CUDA driver here; install NVIDIA's"
# Symbol, argument types, type of the output parameter, and position of the output parameter.
_CALLS: dict[str, tuple[str, tuple[Any, ...], Any, int]] = {
    "cuInit": ("cuInit", (c_uint,), None, 0),
    "cuDriverGetVersion": ("cuDriverGetVersion", (), c_int, 0),
    "cuDeviceGetCount": ("cuDeviceGetCount", (), c_int, 0),
    "cuDeviceGet": ("cuDeviceGet", (c_int,), c_int, 0),
    "cuDeviceGetAttribute": ("cuDeviceGetAttribute", (c_int, c_int), c_int, 0),
    "cuDevicePrimaryCtxRetain": ("cuDevicePrimaryCtxRetain", (c_int,), c_void_p, 0),
    "cuDevicePrimaryCtxRelease": ("cuDevicePrimaryCtxRelease_v2", (c_int,), None, 0),
    "cuCtxSetCurrent": ("cuCtxSetCurrent", (c_void_p,), None, 0),
    "cuCtxGetCurrent": ("cuCtxGetCurrent", (), c_void_p, 0),
    "cuCtxGetDevice": ("cuCtxGetDevice", (), c_int, 0),
    "cuCtxPushCurrent": ("cuCtxPushCurrent_v2", (c_void_p,), None, 0),
    "cuCtxPopCurrent": ("cuCtxPopCurrent_v2", (), c_void_p, 0),
    "cuCtxSynchronize": ("cuCtxSynchronize", (), None, 0),
    "cuMemAlloc": ("cuMemAlloc_v2", (c_size_t,), c_uint64, 0),
    "cuMemFree": ("cuMemFree_v2", (c_uint64,), None, 0),
    "cuMemHostAlloc": ("cuMemHostAlloc", (c_size_t, c_uint), c_void_p, 0),
    "cuMemFreeHost": ("cuMemFreeHost", (c_void_p,), None, 0),
    "cuMemcpyHtoD": ("cuMemcpyHtoD_v2", (c_uint64, c_void_p, c_size_t), None, 0),
    "cuMemcpyDtoH": ("cuMemcpyDtoH_v2", (c_void_p, c_uint64, c_size_t), None, 0),
    "cuMemcpyHtoDAsync": ("cuMemcpyHtoDAsync_v2", (c_uint64, c_void_p, c_size_t, c_void_p), None, 0),
    "cuMemcpyDtoHAsync": ("cuMemcpyDtoHAsync_v2", (c_void_p, c_uint64, c_size_t, c_void_p), None, 0),
    "cuMemcpy2DAsync": ("cuMemcpy2DAsync_v2", (c_void_p, c_void_p), None, 0),
    "cuStreamCreate": ("cuStreamCreate", (c_uint,), c_void_p, 0),
    "cuStreamDestroy": ("cuStreamDestroy_v2", (c_void_p,), None, 0),
    "cuStreamGetCtx": ("cuStreamGetCtx", (c_void_p,), c_void_p, 1),
    "cuStreamSynchronize": ("cuStreamSynchronize", (c_void_p,), None, 0),
    "cuStreamBeginCapture": ("cuStreamBeginCapture_v2", (c_void_p, c_int), None, 0),
    "cuStreamEndCapture": ("cuStreamEndCapture", (c_void_p,), c_void_p, 1),
    "cuGraphInstantiate": ("cuGraphInstantiateWithFlags", (c_void_p, c_uint64), c_void_p, 0),
    "cuGraphLaunch": ("cuGraphLaunch", (c_void_p, c_void_p), None, 0),
    "cuGraphExecDestroy": ("cuGraphExecDestroy", (c_void_p,), None, 0),
    "cuGraphDestroy": ("cuGraphDestroy", (c_void_p,), None, 0),
}
# Arguments for which cuda-python has types of its own, made from a value or an address: position and type.
_TYPES = {
    "cuDeviceGetAttribute": (0, "CUdevice_attribute"),
    "cuMemcpy2DAsync": (0, "CUDA_MEMCPY2D"),
    "cuStreamBeginCapture": (1, "CUstreamCaptureMode"),
}


class _Place(ctypes.Structure):
    """One side of a `Memcpy2D`; `memory_type` 2 is CU_MEMORYTYPE_DEVICE."""

    _fields_ = (
        ("x_bytes", c_size_t),
        ("y", c_size_t),
        ("memory_type", c_int),
        ("host", c_void_p),
        ("device", c_uint64),
        ("array", c_void_p),
        ("pitch", c_size_t),
    )


class Memcpy2D(ctypes.Structure):
    """The argument of `cuMemcpy2DAsync`, which takes its address: a copy of `height` rows of `width_bytes`."""

    _fields_ = (("source", _Place), ("target", _Place), ("width_bytes", c_size_t), ("height", c_size_t))


Driver: TypeAlias = "CtypesDriver | PythonDriver"


def open_driver() -> Driver:
    """Open and initialise the driver.

    Raises:
        PluginError: The driver is not installed or does not start.
    """
    try:
        driver: Driver = PythonDriver()
    except ImportError:
        driver = CtypesDriver()
    driver.call("cuInit", 0)
    return driver


class CtypesDriver:
    """The driver through `libcuda.so.1`.

    A failing call raises a `PluginError` with the function's name and CUDA's error.
    """

    def __init__(self) -> None:
        try:
            self._library = ctypes.CDLL("libcuda.so.1")
        except OSError as error:
            raise PluginError(_NO_DRIVER) from error

    def call(self, name: str, *arguments: Any) -> Any:
        """Call a function and return its output parameter, or None if it has none."""
        symbol, types, kind, place = _CALLS[name]
        converted: list[Any] = [convert(value) for convert, value in zip(types, arguments, strict=True)]
        out = kind() if kind is not None else None
        if out is not None:
            converted.insert(place, ctypes.byref(out))
        try:
            function = getattr(self._library, symbol)
        except AttributeError as error:
            raise _missing(name) from error
        self._check(name, function(*converted))
        return None if out is None else out.value

    def device_name(self, device: Any) -> str:
        """Return the name of a device."""
        name = ctypes.create_string_buffer(_NAME_BYTES)
        self._check("cuDeviceGetName", self._library.cuDeviceGetName(name, _NAME_BYTES, c_int(device)))
        return name.value.decode()

    def _check(self, function: str, status: int) -> None:
        if status:
            name = ctypes.c_char_p()
            unknown = int(self._library.cuGetErrorName(c_int(status), ctypes.byref(name)))
            raise _failure(function, status, "" if unknown or name.value is None else name.value.decode())


class PythonDriver:
    """The driver through `cuda.bindings.driver` of cuda-python; errors as in `CtypesDriver`."""

    def __init__(self) -> None:
        self._module = importlib.import_module("cuda.bindings.driver")

    def call(self, name: str, *arguments: Any) -> Any:
        """Call a function and return its output parameter, or None if it has none."""
        if name in _TYPES:
            place, kind = _TYPES[name]
            converted = getattr(self._module, kind)(arguments[place])
            arguments = (*arguments[:place], converted, *arguments[place + 1 :])
        try:
            status, *out = getattr(self._module, name)(*arguments)
        except RuntimeError as error:  # cuda-python loads the driver at the first call
            raise (_missing(name) if "unction" in str(error) else PluginError(_NO_DRIVER)) from error
        if int(status):
            raise _failure(name, int(status), str(getattr(status, "name", "")))
        return out[0] if out else None

    def device_name(self, device: Any) -> str:
        """Return the name of a device."""
        name = self.call("cuDeviceGetName", _NAME_BYTES, device)
        return bytes(name).partition(b"\0")[0].decode()


def _missing(name: str) -> PluginError:
    return PluginError(f"the CUDA driver has no {name}; install a newer driver (CUDA 12 or later)")


def _failure(name: str, status: int, error_name: str) -> PluginError:
    reason = f"error {status}" + (f", {error_name}" if error_name else "")
    return PluginError(f"the CUDA driver's {name} fails with {reason}; check that nvidia-smi shows a device")
