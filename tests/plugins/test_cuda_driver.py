"""Both drivers make the same calls: ctypes on a library, and cuda-python."""

import ctypes
import importlib
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from idol_plugins import cuda_driver
from idol_plugins.cuda_driver import CtypesDriver, Driver, Memcpy2D, PythonDriver, open_driver
from idol_plugins.errors import PluginError
from idol_plugins.memory import CudaMemory

FAKES = Path(__file__).parents[1] / "fakes"


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    names = ("cuda", "cuda.bindings", "cuda.bindings.driver", "libcuda")
    monkeypatch.syspath_prepend(str(FAKES))
    for name in names:
        monkeypatch.delitem(sys.modules, name, raising=False)
    module = importlib.import_module("cuda.bindings.driver")
    library = importlib.import_module("libcuda")
    for name in names:
        monkeypatch.setitem(sys.modules, name, sys.modules[name])
    monkeypatch.setattr(cuda_driver.ctypes, "CDLL", library.Library)
    return module


@pytest.fixture(params=[CtypesDriver, PythonDriver])
def driver(fake: ModuleType, request: pytest.FixtureRequest) -> Driver:
    made: Driver = request.param()
    made.call("cuInit", 0)
    return made


def test_every_call_arrives(driver: Driver, fake: ModuleType) -> None:
    """A recorded and launched copy uses every function of the table."""
    call = driver.call
    assert call("cuDriverGetVersion") == 12060
    assert call("cuDeviceGetCount") == 1
    device = call("cuDeviceGet", 0)
    assert driver.device_name(device) == "Fake Orin"
    assert [call("cuDeviceGetAttribute", number, device) for number in (75, 76)] == [8, 7]
    assert not int(call("cuCtxGetCurrent") or 0)
    context = int(call("cuDevicePrimaryCtxRetain", device))
    call("cuCtxPushCurrent", context)
    assert int(call("cuCtxPopCurrent")) == context
    call("cuCtxSetCurrent", context)
    assert (int(call("cuCtxGetCurrent")), int(call("cuCtxGetDevice"))) == (context, 0)
    there, here = int(call("cuMemAlloc", 8)), int(call("cuMemHostAlloc", 8, 0))
    (ctypes.c_uint8 * 8).from_address(here)[:] = range(8)
    stream = call("cuStreamCreate", 1)
    assert int(call("cuStreamGetCtx", stream)) == context
    call("cuStreamBeginCapture", stream, 1)
    call("cuMemcpyHtoDAsync", there, here, 8, stream)
    graph = call("cuStreamEndCapture", stream)
    executable = call("cuGraphInstantiate", graph, 0)
    call("cuGraphDestroy", graph)
    call("cuGraphLaunch", executable, stream)
    call("cuStreamSynchronize", stream)
    call("cuGraphExecDestroy", executable)
    back = (ctypes.c_uint8 * 8)()
    call("cuMemcpyDtoH", ctypes.addressof(back), there, 8)
    assert list(back) == list(range(8))
    sevens = (ctypes.c_uint8 * 8)(*8 * [7])
    call("cuMemcpyHtoD", there, ctypes.addressof(sevens), 8)
    call("cuMemcpyDtoHAsync", here, there, 8, stream)
    call("cuCtxSynchronize")
    assert list((ctypes.c_uint8 * 8).from_address(here)) == 8 * [7]
    call("cuMemcpyHtoD", there, ctypes.addressof(back), 8)
    rows = Memcpy2D(width_bytes=1, height=2)  # bytes 1 and 4 to the last two
    rows.source.memory_type = rows.target.memory_type = 2
    rows.source.device, rows.source.pitch, rows.target.device, rows.target.pitch = there + 1, 3, there + 6, 1
    call("cuMemcpy2DAsync", ctypes.addressof(rows), stream)
    call("cuStreamSynchronize", stream)
    call("cuMemcpyDtoH", ctypes.addressof(back), there, 8)
    assert list(back) == [0, 1, 2, 3, 4, 5, 1, 4]
    call("cuStreamDestroy", stream)
    call("cuMemFree", there)
    call("cuMemFreeHost", here)
    call("cuDevicePrimaryCtxRelease", device)
    assert not any(fake.device.alive())
    assert set(fake.device.calls) >= set(cuda_driver._CALLS)


def test_a_failure_names_the_call_and_cudas_error(driver: Driver) -> None:
    with pytest.raises(
        PluginError, match="cuDeviceGet fails with error 101, CUDA_ERROR_INVALID_DEVICE; check"
    ):
        driver.call("cuDeviceGet", 5)


def test_cuda_python_goes_first(fake: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(open_driver(), PythonDriver)
    monkeypatch.setitem(sys.modules, "cuda.bindings.driver", None)
    assert isinstance(open_driver(), CtypesDriver)


def test_cuda_python_without_a_driver(fake: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(_: int) -> None:
        raise RuntimeError("Failed to dlopen libcuda.so.1")

    monkeypatch.setattr(fake, "cuInit", missing)
    with pytest.raises(PluginError, match="no CUDA driver here; install NVIDIA's"):
        open_driver()


def test_a_driver_without_a_function_is_too_old(
    driver: Driver, fake: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(*_: Any) -> None:
        raise (AttributeError if isinstance(driver, CtypesDriver) else RuntimeError)(
            'Function "cuGraphInstantiate" not found'
        )

    if isinstance(driver, CtypesDriver):
        monkeypatch.setattr(type(driver._library), "__getattr__", missing)
    else:
        monkeypatch.setattr(fake, "cuGraphInstantiate", missing)
    with pytest.raises(PluginError, match="has no cuGraphInstantiate; install a newer driver"):
        driver.call("cuGraphInstantiate", 1, 0)


def test_arrays_go_there_and_come_back_through_ctypes(fake: ModuleType) -> None:
    import numpy as np

    with CudaMemory() as memory, memory.scope():
        assert memory.device == "Fake Orin"
        for array in (np.arange(7, dtype=np.float32).reshape(1, 7), np.empty((0, 3), np.uint16)):
            pointer = memory.put(array)
            np.testing.assert_array_equal(memory.get(pointer, array), array)
    assert not any(fake.device.alive())


@pytest.mark.slow
def test_cuda_python_has_these_functions_with_these_parameters() -> None:
    """The real package is tested where it is installed; `scripts/test-tensorrt-rtx` installs it."""
    pytest.importorskip(
        "cuda.bindings", reason="needs cuda-python's bindings; scripts/test-tensorrt-rtx has them"
    )
    real = importlib.import_module("cuda.bindings.driver")
    for name, (_, types, _, _) in cuda_driver._CALLS.items():
        signature = (getattr(real, name).__doc__ or "").strip().partition("\n")[0]
        parameters = signature.partition("(")[2].removesuffix(")")
        assert len([part for part in parameters.split(",") if part.strip()]) == len(types), signature
    for name, (place, kind) in cuda_driver._TYPES.items():
        signature = (getattr(real, name).__doc__ or "").strip().partition("\n")[0]
        assert kind in signature.split(",")[place]
        assert hasattr(real, kind)
    rows = Memcpy2D(width_bytes=2, height=3)
    rows.source.device, rows.source.pitch, rows.target.memory_type, rows.target.pitch = 4, 5, 2, 6
    read = real.CUDA_MEMCPY2D(ctypes.addressof(rows))
    fields = read.WidthInBytes, read.Height, int(read.srcDevice), read.srcPitch, int(read.dstMemoryType)
    assert (*fields, read.dstPitch) == (2, 3, 4, 5, 2, 6)
