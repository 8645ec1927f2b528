"""Arrays that a GPU library would hand over, for tests of `idol_runtime.device_frames`."""

import ctypes
import struct
from collections.abc import Callable, Sequence
from typing import Any

__all__ = ["DLPackArray", "InterfaceArray"]

_NAME = {False: b"dltensor", True: b"dltensor_versioned"}
_Destructor = ctypes.PYFUNCTYPE(None, ctypes.c_void_p)
_new = ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.c_void_p, ctypes.c_char_p, _Destructor)(
    ("PyCapsule_New", ctypes.pythonapi)
)
_is_valid = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_char_p)(
    ("PyCapsule_IsValid", ctypes.pythonapi)
)


class InterfaceArray:
    """An array with `__cuda_array_interface__` alone."""

    def __init__(self, pointer: int | None, shape: Sequence[int], **changes: Any) -> None:
        self.__cuda_array_interface__ = {
            "shape": tuple(shape),
            "typestr": "|u1",
            "data": (pointer, True),
            "version": 3,
            **changes,
        }


class DLPackArray:
    """An array with DLPack alone, written byte for byte as in dlpack.h.

    Attributes:
        streams: arguments `stream` of the exports.
        deleted: number of exports that were deleted.
    """

    def __init__(
        self,
        pointer: int,
        shape: Sequence[int],
        *,
        strides: Sequence[int] | None = None,
        device: tuple[int, int] = (2, 0),
        dtype: tuple[int, int, int] = (1, 8, 1),
        ndim: int | None = None,
        offset: int = 0,
        version: tuple[int, int] | None = None,
        flags: int = 0,
        wait: Callable[[int], None] = lambda _: None,
    ) -> None:
        self.streams: list[int] = []
        self.deleted = 0
        self._device, self._version, self._wait = device, version, wait
        self._shape = (ctypes.c_int64 * len(shape))(*shape)
        self._strides = (ctypes.c_int64 * len(shape))(*strides) if strides is not None else None
        addresses = [ctypes.addressof(self._shape), ctypes.addressof(self._strides) if self._strides else 0]
        ndim = len(shape) if ndim is None else ndim
        self._tensor = struct.pack("QiiiBBHQQQ", pointer, *device, ndim, *dtype, *addresses, offset)
        self._deleter = _Destructor(self._delete)
        self._destructor = _Destructor(self._destroy)
        deleter = ctypes.cast(self._deleter, ctypes.c_void_p).value
        if version is None:
            content = self._tensor + struct.pack("QQ", 0, deleter)
        else:
            content = struct.pack("IIQQQ", *version, 0, deleter, flags) + self._tensor
        self._content = ctypes.create_string_buffer(content, len(content))

    def __dlpack_device__(self) -> tuple[int, int]:
        return self._device

    def __dlpack__(self, *, stream: int, **newer: Any) -> object:
        if newer and self._version is None:
            raise TypeError(f"__dlpack__() got an unexpected keyword argument {next(iter(newer))!r}")
        self.streams.append(stream)
        self._wait(stream)
        return _new(ctypes.addressof(self._content), _NAME[self._version is not None], self._destructor)

    def _delete(self, address: int) -> None:
        assert address == ctypes.addressof(self._content)
        self.deleted += 1

    def _destroy(self, capsule: int) -> None:
        """Delete an export that nobody consumed."""
        if _is_valid(capsule, _NAME[self._version is not None]):
            self._delete(ctypes.addressof(self._content))
