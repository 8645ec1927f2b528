"""Frames on the GPU: layouts, ownership and order. NumPy's capsules check the structures; the GPU is not needed."""

import gc
import sys
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from device_arrays import DLPackArray, InterfaceArray
from idol_runtime.backends.base import BatchLimit
from idol_runtime.backends.cuda_device import CudaDevice
from idol_runtime.device_frames import import_frame, on_device, read_capsule
from idol_runtime.errors import FrameError
from idol_runtime.pipeline import Pipeline
from idol_runtime.streams import Streams

SIZE = (4, 5)
SHAPE = (*SIZE, 3)


def taken(frame: Any, device: int = 0, stream: int = 77, waits: list[Any] | None = None) -> Any:
    assert on_device(frame)
    wait = [].append if waits is None else waits.append
    return import_frame(frame, "frame 6", size=SIZE, device=device, stream=stream, wait=wait)


@pytest.mark.parametrize("version", [{}, {"max_version": (1, 0)}])
def test_capsules_of_numpy_are_read_and_freed(version: dict[str, Any]) -> None:
    array = np.zeros((6, 9, 4), np.uint8)[1:5, ::2, :3]
    count = sys.getrefcount(array)
    try:
        capsule = array.__dlpack__(**version)
    except TypeError:
        pytest.skip("this NumPy is older than DLPack 1")
    owner, tensor = read_capsule(capsule, "frame 0")
    assert tensor.data + tensor.byte_offset == array.ctypes.data
    assert (tensor.ndim, tensor.shape[:3], tensor.strides[:3]) == (3, list(array.shape), list(array.strides))
    assert (tensor.code, tensor.bits, tensor.lanes) == (1, 8, 1)
    assert (tensor.device_type, tensor.device_id) == array.__dlpack_device__()
    with pytest.raises(FrameError, match="instead of a new DLPack capsule"):
        read_capsule(capsule, "frame 0")
    del capsule
    assert sys.getrefcount(array) > count
    del owner, tensor
    assert sys.getrefcount(array) == count


@pytest.mark.parametrize("version", [None, (1, 0), (1, 9)])
@pytest.mark.parametrize("strides", [None, (15, 3, 1), (64, 3, 1)])
def test_dlpack(version: Any, strides: Any) -> None:
    array = DLPackArray(1000, SHAPE, offset=24, strides=strides, version=version, flags=1)  # read-only
    waits: list[Any] = []
    frame = taken(array, waits=waits)
    assert (frame.pointer, frame.size, frame.pitch) == (1024, SIZE, strides[0] if strides else 15)
    assert (array.streams, array.deleted, waits) == ([77], 0, [])
    assert frame.placement.frame == frame.placement.network == frame.placement.content == SIZE
    del frame
    assert array.deleted == 1


@pytest.mark.parametrize("stream", [None, 1, 2, 99])
def test_cuda_array_interface(stream: int | None) -> None:
    array = InterfaceArray(1000, SHAPE, strides=(64, 3, 1), stream=stream)
    waits: list[Any] = []
    frame = taken(array, waits=waits)
    assert (frame.pointer, frame.size, frame.pitch, frame.owner) == (1000, SIZE, 64, array)
    assert waits == [stream]
    for changes in ({}, {"strides": None}, {"mask": None, "version": 2}):
        assert taken(InterfaceArray(1000, SHAPE, **changes)).pitch == 15


@pytest.mark.parametrize(
    ("shape", "changes", "message"),
    [
        ((3, 4, 5), {}, "must be HxWx3 uint8 RGB, got 3x4x5 uint8; convert it on the GPU"),
        ((4, 5), {}, "got 4x5 uint8"),
        ((4, 5, 4), {}, "got 4x5x4 uint8"),
        ((), {}, "got no axes uint8"),
        ((0, 5, 3), {}, "got 0x5x3 uint8"),
        ((-4, 5, 3), {}, "got -4x5x3 uint8"),
        ((5, 5, 3), {}, "is 5x5 on the GPU, the network takes 4x5; resize it there"),
        ((2**40, 2**40, 3), {}, "has strides"),
        (SHAPE, {"strides": (-15, 3, 1)}, r"has strides \(-15, 3, 1\), expected rows of packed pixels"),
        (SHAPE, {"strides": (14, 3, 1)}, "has strides"),
        (SHAPE, {"strides": (20, 4, 1)}, "has strides"),
        (SHAPE, {"strides": (1, 4, 20)}, "has strides"),
        (SHAPE, {"strides": (2**31, 3, 1)}, "has strides"),
    ],
)
def test_wrong_layouts_are_refused(shape: Any, changes: dict[str, Any], message: str) -> None:
    for array in (DLPackArray(64, shape, **changes), InterfaceArray(64, shape, **changes)):
        with pytest.raises(FrameError, match=f"^frame 6 .*{message}"):
            taken(array)
        gc.collect()  # the error's frames
        assert getattr(array, "deleted", 1) == 1


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (InterfaceArray(64, SHAPE, typestr="<f4"), "got 4x5x3 of another type"),
        (InterfaceArray(None, SHAPE), "must be HxWx3"),
        (InterfaceArray(64, SHAPE, mask=object()), "has a mask; pass the array without it"),
        (DLPackArray(64, SHAPE, dtype=(0, 8, 1)), "of another type"),
        (DLPackArray(64, SHAPE, dtype=(1, 8, 3)), "of another type"),
        (DLPackArray(0, SHAPE), "must be HxWx3"),
        (DLPackArray(64, SHAPE, ndim=2**31 - 1), "got no axes"),  # not read
        (DLPackArray(64, SHAPE, ndim=-1), "got no axes"),
        (DLPackArray(2**64 - 64, SHAPE, strides=(16, 3, 1)), "has strides"),
        (DLPackArray(64, SHAPE, version=(2, 0)), r"is of DLPack 2\.0; pass an array of DLPack 1"),
        (
            DLPackArray(64, SHAPE, device=(2, 1)),
            "lies on cuda:1, the network runs on cuda:0; use device='cuda:1'",
        ),
    ],
)
def test_other_arrays_are_refused(array: Any, message: str) -> None:
    with pytest.raises(FrameError, match=message):
        taken(array)
    gc.collect()
    if isinstance(array, DLPackArray):
        assert array.deleted == len(array.streams)


def test_an_export_that_fails_is_a_frame_error() -> None:
    def fail(_: int) -> None:
        raise BufferError("it needs a gradient")

    with pytest.raises(
        FrameError, match=r"frame 6 cannot be exported: it needs a gradient; copy it to the host"
    ):
        taken(DLPackArray(64, SHAPE, wait=fail))


def test_the_default_stream_has_the_number_1() -> None:
    array = DLPackArray(64, SHAPE)
    taken(array, stream=0)
    assert array.streams == [1]


@pytest.mark.parametrize("frame", [InterfaceArray(64, SHAPE), DLPackArray(64, SHAPE)])
def test_a_backend_on_the_cpu_names_the_copy(frame: Any, kit: Any) -> None:
    backend: Any = SimpleNamespace(network_size=None, batch=BatchLimit())
    config = kit.manifest().stream
    with pytest.raises(FrameError, match=r"^frame 0 \(\w+Array\) lies on the GPU.*cupy.asnumpy\(frame\)"):
        Pipeline(backend, config).step(frame)
    with pytest.raises(FrameError, match=r"^stream door: frame 0 .* lies on the GPU"):
        Streams(backend, config).step({"door": frame})
    with pytest.raises(FrameError, match=r"frame 0 lies on the GPU, .*; pass it to step\(\) instead"):
        Pipeline(backend, config).prepare(frame)


def test_arrays_of_the_host_are_not_on_the_device() -> None:
    assert not on_device(np.zeros(SHAPE, np.uint8))
    assert not on_device(DLPackArray(64, SHAPE, device=(1, 0)))
    assert not on_device([1, 2])


@pytest.mark.gpu
@pytest.mark.parametrize("own_stream", [True, False])
@pytest.mark.parametrize("protocol", ["dlpack", "interface"])
def test_a_tensor_of_torch_is_copied_on_the_gpu(own_stream: bool, protocol: str) -> None:
    """The copy comes after the producer's work, and torch goes on in its context."""
    torch = pytest.importorskip("torch")
    given = None if own_stream else torch.cuda.Stream()
    device = CudaDevice(stream=given)
    height, width = size = 720, 1000
    rows = torch.zeros(height, 1280, 3, dtype=torch.uint8, device="cuda")
    with device.active():
        buffer = device.buffer(height * width * 3)
    for value in (1, 2, 3):
        torch.cuda._sleep(10_000_000)
        rows[:] = (torch.arange(rows.numel(), device="cuda") * value).to(torch.uint8).view_as(rows)
        array = rows[:, 7 : 7 + width]
        given_frame = array if protocol == "dlpack" else InterfaceArray(**_interface(array))
        frame = import_frame(
            given_frame, "frame 0", size=size, device=0, stream=device.stream, wait=device.wait_for
        )
        with device.active():
            device.copy_rows(buffer.device, frame.pointer, frame.pitch, height, width * 3)
            graph = device.record(lambda: device.download(buffer, buffer.host.nbytes))
            device.launch(graph)
            device.synchronize()
            device.forget(graph)
        assert np.array_equal(buffer.view((*size, 3), np.uint8), array.cpu().numpy())
    device.close()
    assert int(rows.sum()) > 0


def _interface(array: Any) -> dict[str, Any]:
    interface = dict(array.__cuda_array_interface__)
    return {"pointer": interface.pop("data")[0], **interface}
