"""Tests of memory, stream and recordings on a fake device."""

import importlib
import sys
import threading
from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from idol_plugins import cuda_driver
from idol_runtime.backends import cuda_device
from idol_runtime.backends.cuda_device import CudaDevice, device_index, pci_bus_id
from idol_runtime.errors import BackendError, ConfigError

Start = Callable[..., ModuleType]


def test_bytes_go_there_and_come_back_when_waited_for(fake_tensorrt: Start) -> None:
    fake_tensorrt()
    device = CudaDevice()
    with device.active():
        buffer = device.buffer(24)
        view = buffer.view((2, 3), np.float32)
        view[...] = np.arange(6).reshape(2, 3)
        device.upload(buffer, 24)
        device.synchronize()
        view[...] = 0
        device.download(buffer, 12)
        assert not view.any()  # not yet
        device.synchronize()
        np.testing.assert_array_equal(view, [[0, 1, 2], [0, 0, 0]])
    device.close()


def test_what_is_recorded_happens_at_each_launch(fake_tensorrt: Start) -> None:
    fake_tensorrt()
    device = CudaDevice()
    with device.active():
        buffer = device.buffer(4)
        graph = device.record(lambda: device.upload(buffer, 4))
        for value in (1, 2):
            buffer.host[:] = value
            device.launch(graph)
            device.synchronize()
            buffer.host[:] = 0
            device.download(buffer, 4)
            device.synchronize()
            assert buffer.host.tolist() == 4 * [value]
        device.forget(graph)
    device.close()


def test_a_recording_that_fails_leaves_the_stream_usable(fake_tensorrt: Start) -> None:
    fake = fake_tensorrt()
    device = CudaDevice()
    with device.active():
        buffer = device.buffer(4)
        with pytest.raises(BackendError, match="CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED"):
            device.record(device.synchronize)

        def fail() -> None:
            raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            device.record(fail)
        assert not fake.driver.device.captures
        device.upload(buffer, 4)
        device.synchronize()
    device.close()


def use(device: CudaDevice) -> None:
    """Use every part of a device, and fail in between."""
    with device.active():
        buffer = device.buffer(4)
        device.upload(buffer, 4)
        device.synchronize()
        with pytest.raises(BackendError, match="cuMemAlloc fails"):
            device.buffer(0)
        with pytest.raises(BackendError, match="CAPTURE"):
            device.record(device.synchronize)
    device.wait_for(None)
    device.wait_for(device.stream)


@pytest.mark.parametrize("cuda_python", [True, False])
def test_a_context_of_pycuda_is_used_and_stays_as_it_was(
    fake_tensorrt: Start, monkeypatch: pytest.MonkeyPatch, cuda_python: bool
) -> None:
    fake = fake_tensorrt().driver.device
    if not cuda_python:
        monkeypatch.setattr(cuda_driver.ctypes, "CDLL", importlib.import_module("libcuda").Library)
        monkeypatch.setitem(sys.modules, "cuda.bindings.driver", None)
    CudaDevice().close()  # while no context is current
    pycuda = importlib.import_module("pycuda.driver")
    pycuda.init()
    outer, inner = pycuda.Device(0).make_context(), pycuda.Device(0).make_context()
    device = CudaDevice()
    assert fake.stack == [inner.handle]
    pycuda.Context.pop()  # checks that the driver's stack is PyCUDA's
    use(device)
    assert fake.stack == [outer.handle]
    assert set(fake.made_in.values()) == {inner.handle}
    assert not fake.retained
    thread = threading.Thread(target=use, args=(device,))
    thread.start()
    thread.join()
    device.close()
    outer.push()
    pycuda.Context.pop()
    pycuda.Context.pop()


def test_a_stream_of_pycuda_brings_its_context(fake_tensorrt: Start) -> None:
    fake = fake_tensorrt().driver.device
    pycuda = importlib.import_module("pycuda.driver")
    pycuda.init()
    context = pycuda.Device(0).make_context()
    stream = pycuda.Stream()
    pycuda.Context.pop()
    device = CudaDevice(stream=stream)
    assert device.stream == stream.handle
    use(device)
    assert set(fake.made_in.values()) == {context.handle}
    device.close()
    context.push()
    stream.free()  # it was not destroyed
    context.detach()


def test_a_context_of_another_device_is_left_alone(fake_tensorrt: Start) -> None:
    fake = fake_tensorrt().driver.device
    fake.initialised = True
    foreign = fake.make_context()
    fake.ordinals[foreign] = 1
    device = CudaDevice()
    use(device)
    assert (fake.retained, fake.stack) == (1, [foreign])
    device.close()
    fake.made_in[77], fake.streams[77] = foreign, []
    with pytest.raises(ConfigError, match=r"stream is of CUDA device 1, the network runs on 0; use .*cuda:1"):
        CudaDevice(stream=77)
    del fake.streams[77]
    assert fake.stack == [foreign]
    fake.stack.clear()


def test_the_default_stream_is_not_recorded(fake_tensorrt: Start) -> None:
    fake = fake_tensorrt().driver.device
    device = CudaDevice(stream=SimpleNamespace(ptr=0))  # as of CuPy
    with (
        device.active(),
        pytest.raises(BackendError, match="does not record the default stream; pass another"),
    ):
        device.record(lambda: None)
    device.close()
    assert "cuStreamBeginCapture" not in fake.calls


@pytest.mark.parametrize(
    "stream",
    [
        7,
        np.int64(7),
        SimpleNamespace(handle=7),
        SimpleNamespace(ptr=7),
        SimpleNamespace(cuda_stream=7),
        SimpleNamespace(handle=SimpleNamespace(value=7)),
    ],
)
def test_streams_of_all_libraries(stream: Any) -> None:
    assert cuda_device._stream_address(stream) == 7


@pytest.mark.parametrize("stream", ["fast", object(), [7]])
def test_what_is_no_stream(stream: Any) -> None:
    with pytest.raises(ConfigError, match=r"stream must be a CUDA stream, got \w+; pass the stream"):
        CudaDevice(stream=stream)


def test_who_it_is(fake_tensorrt: Start, monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> None:
    fake_tensorrt()
    module = tmp_path / "version"
    module.write_text(
        "NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.159.04  Release Build\nGCC 12.2.0\n"
    )
    monkeypatch.setattr(cuda_device, "_KERNEL_MODULE", module)
    device = CudaDevice()
    assert (device.name, device.capability, device.driver) == ("Fake Orin", "8.7", "12.6 (580.159.04)")
    device.close()
    module.unlink()
    device = CudaDevice()
    assert device.driver == "12.6"
    device.close()


def test_devices_by_name() -> None:
    assert [device_index(name) for name in ("auto", "cuda", "cuda:0", "cuda:12")] == [0, 0, 0, 12]


def test_no_driver_is_a_backend_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: str) -> None:
        raise OSError("no libcuda")

    monkeypatch.setitem(__import__("sys").modules, "cuda.bindings.driver", None)
    monkeypatch.setattr(cuda_driver.ctypes, "CDLL", refuse)
    with pytest.raises(BackendError, match="no CUDA driver here; install NVIDIA's"):
        CudaDevice()


def test_where_a_device_is_plugged_in_is_told_without_taking_it(fake_tensorrt: Start) -> None:
    device = fake_tensorrt().driver.device
    device.pci = (1, 0x3B, 2)
    assert pci_bus_id(0) == "00000001:3b:02.0"
    assert not any(device.alive())
    with pytest.raises(BackendError, match="cuDeviceGet fails with error 101"):
        pci_bus_id(3)
