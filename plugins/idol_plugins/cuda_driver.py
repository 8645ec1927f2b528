"""NVIDIA's driver API by one set of names: through cuda-python where it is installed, else through the library itself.

Both take the arguments of the C function without its out-parameters, and return these. cuda-python follows the
driver's changes; the library needs no package at all, which is what a Jetson has. PyCUDA has no stream capture.
"""

import ctypes
import importlib
from ctypes import c_int, c_size_t, c_uint, c_uint64, c_void_p
from typing import Any, Protocol

from idol_plugins.errors import PluginError

__all__ = ["CtypesDriver", "Driver", "PythonDriver", "open_driver"]

_NAME_BYTES = 256
# Symbol, types of the arguments, type of what it returns through a pointer, and where that pointer stands.
_CALLS: dict[str, tuple[str, tuple[Any, ...], Any, int]] = {
    "cuInit": ("cuInit", (c_uint,), None, 0),
    "cuDriverGetVersion": ("cuDriverGetVersion", (), c_int, 0),
    "cuDeviceGetCount": ("cuDeviceGetCount", (), c_int, 0),
    "cuDeviceGet": ("cuDeviceGet", (c_int,), c_int, 0),
    "cuDeviceGetAttribute": ("cuDeviceGetAttribute", (c_int, c_int), c_int, 0),
    "cuDevicePrimaryCtxRetain": ("cuDevicePrimaryCtxRetain", (c_int,), c_void_p, 0),
    "cuDevicePrimaryCtxRelease": ("cuDevicePrimaryCtxRelease_v2", (c_int,), None, 0),
    "cuCtxSetCurrent": ("cuCtxSetCurrent", (c_void_p,), None, 0),
    "cuCtxSynchronize": ("cuCtxSynchronize", (), None, 0),
    "cuMemAlloc": ("cuMemAlloc_v2", (c_size_t,), c_uint64, 0),
    "cuMemFree": ("cuMemFree_v2", (c_uint64,), None, 0),
    "cuMemHostAlloc": ("cuMemHostAlloc", (c_size_t, c_uint), c_void_p, 0),
    "cuMemFreeHost": ("cuMemFreeHost", (c_void_p,), None, 0),
    "cuMemcpyHtoD": ("cuMemcpyHtoD_v2", (c_uint64, c_void_p, c_size_t), None, 0),
    "cuMemcpyDtoH": ("cuMemcpyDtoH_v2", (c_void_p, c_uint64, c_size_t), None, 0),
    "cuMemcpyHtoDAsync": ("cuMemcpyHtoDAsync_v2", (c_uint64, c_void_p, c_size_t, c_void_p), None, 0),
    "cuMemcpyDtoHAsync": ("cuMemcpyDtoHAsync_v2", (c_void_p, c_uint64, c_size_t, c_void_p), None, 0),
    "cuStreamCreate": ("cuStreamCreate", (c_uint,), c_void_p, 0),
    "cuStreamDestroy": ("cuStreamDestroy_v2", (c_void_p,), None, 0),
    "cuStreamSynchronize": ("cuStreamSynchronize", (c_void_p,), None, 0),
    "cuStreamBeginCapture": ("cuStreamBeginCapture_v2", (c_void_p, c_int), None, 0),
    "cuStreamEndCapture": ("cuStreamEndCapture", (c_void_p,), c_void_p, 1),
    "cuGraphInstantiate": ("cuGraphInstantiateWithFlags", (c_void_p, c_uint64), c_void_p, 0),
    "cuGraphLaunch": ("cuGraphLaunch", (c_void_p, c_void_p), None, 0),
    "cuGraphExecDestroy": ("cuGraphExecDestroy", (c_void_p,), None, 0),
    "cuGraphDestroy": ("cuGraphDestroy", (c_void_p,), None, 0),
}
# Arguments that cuda-python takes as enumerations: which, and of what type.
_ENUMERATIONS = {
    "cuDeviceGetAttribute": (0, "CUdevice_attribute"),
    "cuStreamBeginCapture": (1, "CUstreamCaptureMode"),
}


class Driver(Protocol):
    """The driver API; a call that fails raises a `PluginError` that names it and CUDA's error."""

    def call(self, name: str, *arguments: Any) -> Any:
        """Call a function; returns its out-parameter, if it has one."""
        ...

    def device_name(self, device: Any) -> str:
        """What the device calls itself."""
        ...


def open_driver() -> Driver:
    """The driver, initialised.

    Raises:
        PluginError: there is none here, or it does not start.
    """
    try:
        driver: Driver = PythonDriver()
    except ImportError:
        driver = CtypesDriver()
    driver.call("cuInit", 0)
    return driver


class CtypesDriver:
    """Through `libcuda.so.1`."""

    def __init__(self) -> None:
        try:
            self._library = ctypes.CDLL("libcuda.so.1")
        except OSError as error:
            raise PluginError("there is no CUDA driver here; install NVIDIA's") from error

    def call(self, name: str, *arguments: Any) -> Any:
        """See `Driver`."""
        symbol, types, kind, place = _CALLS[name]
        given: list[Any] = [convert(value) for convert, value in zip(types, arguments, strict=True)]
        out = kind() if kind is not None else None
        if out is not None:
            given.insert(place, ctypes.byref(out))
        status = int(getattr(self._library, symbol)(*given))
        if status:
            raise _failure(name, status, self._error_name(status))
        return None if out is None else out.value

    def device_name(self, device: Any) -> str:
        """See `Driver`."""
        name = ctypes.create_string_buffer(_NAME_BYTES)
        status = int(self._library.cuDeviceGetName(name, _NAME_BYTES, c_int(device)))
        if status:
            raise _failure("cuDeviceGetName", status, self._error_name(status))
        return name.value.decode()

    def _error_name(self, status: int) -> str:
        name = ctypes.c_char_p()
        unknown = int(self._library.cuGetErrorName(c_int(status), ctypes.byref(name)))
        return "" if unknown or name.value is None else name.value.decode()


class PythonDriver:
    """Through `cuda.bindings.driver` of cuda-python."""

    def __init__(self) -> None:
        self._module = importlib.import_module("cuda.bindings.driver")

    def call(self, name: str, *arguments: Any) -> Any:
        """See `Driver`."""
        if name in _ENUMERATIONS:
            place, kind = _ENUMERATIONS[name]
            enumeration = getattr(self._module, kind)
            arguments = tuple(
                enumeration(value) if index == place else value for index, value in enumerate(arguments)
            )
        try:
            status, *out = getattr(self._module, name)(*arguments)
        except RuntimeError as error:  # cuda-python looks for the driver at the first call
            raise PluginError("there is no CUDA driver here; install NVIDIA's") from error
        if int(status):
            raise _failure(name, int(status), str(getattr(status, "name", "")))
        return out[0] if out else None

    def device_name(self, device: Any) -> str:
        """See `Driver`."""
        name = self.call("cuDeviceGetName", _NAME_BYTES, device)
        return bytes(name).partition(b"\0")[0].decode()


def _failure(name: str, status: int, what: str) -> PluginError:
    reason = f"error {status}" + (f", {what}" if what else "")
    return PluginError(f"the CUDA driver's {name} fails with {reason}; does nvidia-smi show a device?")
