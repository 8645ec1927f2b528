"""Tests of memory, stream and recordings on a fake device."""

from collections.abc import Callable
from types import ModuleType

import numpy as np
import pytest

from idol_plugins import cuda_driver
from idol_runtime.backends import cuda_device
from idol_runtime.backends.cuda_device import CudaDevice, device_index, pci_bus_id
from idol_runtime.errors import BackendError

Start = Callable[..., ModuleType]


def test_bytes_go_there_and_come_back_when_waited_for(fake_tensorrt: Start) -> None:
    fake_tensorrt()
    device = CudaDevice()
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
