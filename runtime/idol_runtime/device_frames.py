"""Frames in the memory of a CUDA device, as CuPy, PyTorch, Numba, PyCUDA and NVIDIA's video decoders hand them over.

Two protocols are read: DLPack, which orders our stream after the producer's, and `__cuda_array_interface__`.
"""

import ctypes
import weakref
from collections.abc import Callable, Sequence
from ctypes import (
    POINTER,
    PYFUNCTYPE,
    c_char_p,
    c_int,
    c_int32,
    c_int64,
    c_uint32,
    c_uint64,
    c_void_p,
    py_object,
)
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from idol_runtime.errors import FrameError
from idol_runtime.preprocess import Placement

__all__ = ["DeviceFrame", "DeviceFrames", "Wait", "import_frame", "on_device", "read_capsule", "refuse"]

Wait: TypeAlias = Callable[[int | None], None]  # waits for a stream, or for all work of the device

_CUDA, _CUDA_MANAGED = 2, 13  # kDLCUDA, kDLCUDAManaged
_UINT8 = 1, 8, 1  # kDLUInt, bits, lanes
_MAX_PITCH = 2**31 - 1  # of cuMemcpy2D
_TO_HOST = "cupy.asnumpy(frame), frame.cpu().numpy() (torch)"
_TO_ROWS = "cupy.ascontiguousarray(frame), frame.contiguous() (torch)"


class _Tensor(ctypes.Structure):
    """`DLTensor` of dlpack.h."""

    _fields_ = (
        ("data", c_uint64),
        ("device_type", c_int32),
        ("device_id", c_int32),
        ("ndim", c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", POINTER(c_int64)),
        ("strides", POINTER(c_int64)),
        ("byte_offset", c_uint64),
    )


class _Managed(ctypes.Structure):
    """`DLManagedTensor`."""

    _fields_ = (("tensor", _Tensor), ("manager", c_void_p), ("deleter", c_void_p))


class _ManagedVersioned(ctypes.Structure):
    """`DLManagedTensorVersioned`; the flags (read-only, copied) do not matter to a reader."""

    _fields_ = (
        ("major", c_uint32),
        ("minor", c_uint32),
        ("manager", c_void_p),
        ("deleter", c_void_p),
        ("flags", c_uint64),
        ("tensor", _Tensor),
    )


# Structure, name of a new capsule, and name of a consumed one; capsules point to these names.
_CAPSULES: tuple[tuple[type[ctypes.Structure], bytes, bytes], ...] = (
    (_ManagedVersioned, b"dltensor_versioned", b"used_dltensor_versioned"),
    (_Managed, b"dltensor", b"used_dltensor"),
)
_is_valid = PYFUNCTYPE(c_int, py_object, c_char_p)(("PyCapsule_IsValid", ctypes.pythonapi))
_get_pointer = PYFUNCTYPE(c_void_p, py_object, c_char_p)(("PyCapsule_GetPointer", ctypes.pythonapi))
_set_name = PYFUNCTYPE(c_int, py_object, c_char_p)(("PyCapsule_SetName", ctypes.pythonapi))
_Deleter = PYFUNCTYPE(None, c_void_p)  # called with the GIL, which some producers' deleters need


@dataclass(frozen=True, eq=False)
class DeviceFrame:
    """An RGB frame of the network's size in the memory of a CUDA device, 3 bytes per pixel.

    Attributes:
        pointer: address of the first row.
        size: (height, width) in pixels.
        pitch: bytes from a row to the next.
        owner: object that keeps the memory valid.
    """

    pointer: int
    size: tuple[int, int]
    pitch: int
    owner: object

    @property
    def placement(self) -> Placement:
        """The position of the frame in the network input: it fills it."""
        return Placement(frame=self.size, network=self.size, content=self.size)


DeviceFrames: TypeAlias = Sequence[DeviceFrame]


def on_device(frame: object) -> bool:
    """Return True if an object is an array in the memory of a CUDA device."""
    if isinstance(frame, np.ndarray):
        return False
    return _exports_cuda(frame) or hasattr(frame, "__cuda_array_interface__")


def refuse(frame: object, name: str) -> DeviceFrame:
    """Raise a `FrameError`, because the backend takes frames of the host only."""
    raise FrameError(
        f"{name} ({type(frame).__name__}) lies on the GPU, and this backend takes frames of the host only; copy it "
        f"with {_TO_HOST}, or use --backend tensorrt"
    )


def import_frame(
    frame: Any, name: str, *, size: tuple[int, int], device: int, stream: int, wait: Wait
) -> DeviceFrame:
    """Take a frame without copying it; work queued in `stream` from now on finds the frame complete.

    Args:
        frame: array for which `on_device` is True, [H, W, 3] uint8 RGB, of the network's size; rows may have gaps.
        name: name of the frame in messages.
        size: (H, W) of the network's frames in pixels.
        device: CUDA's index of the device.
        stream: address of the stream that will read the frame.
        wait: waits for the producer of a frame without DLPack.

    Raises:
        FrameError: the frame has another type, size, layout or device.
    """
    if _exports_cuda(frame):
        kind, index = map(int, frame.__dlpack_device__())
        if kind == _CUDA and index != device:
            raise FrameError(
                f"{name} lies on cuda:{index}, the network runs on cuda:{device}; use device='cuda:{index}'"
            )
        owner, tensor = read_capsule(_capsule(frame, name, stream), name)
        count = tensor.ndim if 0 <= tensor.ndim <= 8 else 0  # before the arrays are read
        shape = tuple(tensor.shape[:count])
        strides = tuple(tensor.strides[:count]) if tensor.strides else None
        uint8 = (tensor.code, tensor.bits, tensor.lanes) == _UINT8
        taken = _checked(name, tensor.data + tensor.byte_offset, shape, strides, uint8, owner)
    else:
        interface = frame.__cuda_array_interface__
        if interface.get("mask") is not None:
            raise FrameError(f"{name} has a mask; pass the array without it")
        uint8 = np.dtype(interface["typestr"]) == np.uint8
        strides = interface.get("strides")
        taken = _checked(name, interface["data"][0] or 0, interface["shape"], strides, uint8, frame)
    if taken.size != size:
        raise FrameError(
            f"{name} is {taken.size[0]}x{taken.size[1]} on the GPU, the network takes {size[0]}x{size[1]}; resize it "
            f"there, or copy it to the host, which resizes it: {_TO_HOST}"
        )
    if taken.owner is frame:
        # Without a stream, the producer may still be writing in any stream.
        wait(interface.get("stream"))
    return taken


def read_capsule(capsule: object, name: str) -> tuple[object, Any]:
    """Consume a DLPack capsule.

    Args:
        capsule: result of `__dlpack__`.
        name: name of the frame in messages.

    Returns:
        An owner and the `DLTensor`. The producer's deleter runs once, when the owner is deleted.

    Raises:
        FrameError: the object is no capsule, was consumed before, or is of a newer major version.
    """
    for kind, label, used in _CAPSULES:
        if not _is_valid(capsule, label):
            continue
        address = _get_pointer(capsule, label)
        owner: Any = kind.from_address(address)
        if kind is _ManagedVersioned and owner.major > 1:  # the capsule frees it
            raise FrameError(f"{name} is of DLPack {owner.major}.{owner.minor}; pass an array of DLPack 1")
        _set_name(capsule, used)
        if owner.deleter:
            weakref.finalize(owner, _Deleter(owner.deleter), address).atexit = False
        return owner, owner.tensor
    raise FrameError(
        f"{name} exports {type(capsule).__name__} instead of a new DLPack capsule; pass another array"
    )


def _exports_cuda(frame: Any) -> bool:
    device = getattr(frame, "__dlpack_device__", None)
    return device is not None and int(device()[0]) in (_CUDA, _CUDA_MANAGED)


def _capsule(frame: Any, name: str, stream: int) -> object:
    stream = stream or 1  # 1 is the default stream, and 0 is not allowed
    try:
        try:
            return frame.__dlpack__(stream=stream, max_version=(1, 0))
        except TypeError:  # a producer before DLPack 1
            return frame.__dlpack__(stream=stream)
    except (BufferError, RuntimeError, TypeError, ValueError) as error:
        raise FrameError(f"{name} cannot be exported: {error}; copy it to the host: {_TO_HOST}") from error


def _checked(
    name: str,
    pointer: int,
    shape: Sequence[int],
    strides: Sequence[int] | None,  # in bytes; None: without gaps
    uint8: bool,
    owner: object,
) -> DeviceFrame:
    if not uint8 or len(shape) != 3 or shape[2] != 3 or min(shape) < 1 or not pointer:
        raise FrameError(
            f"{name} must be HxWx3 uint8 RGB, got {'x'.join(map(str, shape)) or 'no axes'} "
            f"{'uint8' if uint8 else 'of another type'}; convert it on the GPU before step()"
        )
    height, width, _ = map(int, shape)
    pitch, *rest = map(int, strides or (3 * width, 3, 1))
    if rest != [3, 1] or not 3 * width <= pitch <= _MAX_PITCH or pointer + height * pitch >= 2**64:
        raise FrameError(
            f"{name} has strides {tuple(strides or ())}, expected rows of packed pixels; copy it on the GPU with "
            f"{_TO_ROWS}"
        )
    return DeviceFrame(pointer, (height, width), pitch, owner)
