"""Tests of an engine on a device: order of the queued work, and all errors. The fakes are in tests/fakes."""

import importlib
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pytest

from device_arrays import DLPackArray, InterfaceArray
from idol_runtime.backends import OpenOptions, open_backend
from idol_runtime.backends.cuda_device import CudaDevice
from idol_runtime.backends.engine_choice import required_key
from idol_runtime.bundle.bundle import Bundle
from idol_runtime.bundle.engine_file import ENGINE_SCHEMA, EngineInfo, engine_path, write_engine
from idol_runtime.bundle.sealed_zip import sha256
from idol_runtime.errors import BackendError, ConfigError, FrameError, MissingDependencyError
from idol_runtime.pipeline import Pipeline
from idol_runtime.streams import Streams

Start = Callable[..., ModuleType]


@pytest.fixture
def bundle(kit: Any, tmp_path: Path) -> Iterator[Bundle]:
    path = kit.write(tmp_path / "model.idol", members=kit.members(plugin=b"DeformAttn"))
    with Bundle.open(path) as opened:
        yield opened


@pytest.fixture
def store(
    fake_tensorrt: Start, bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., ModuleType]:
    """Start a TensorRT release whose networks return the golden outputs, and store an engine of it."""
    golden_frame = bundle.golden_frame()
    np.savez(tmp_path / "answers.npz", image=[0, *golden_frame.frame.shape], **golden_frame.outputs)
    monkeypatch.setenv("FAKE_TENSORRT_ANSWERS", str(tmp_path / "answers.npz"))
    (tmp_path / "engines").mkdir()

    def start(release: str = "10.16", batch: int = 1, **header: Any) -> ModuleType:
        trt = fake_tensorrt(release)
        device = CudaDevice()
        key = msgspec.structs.replace(required_key(bundle, "plugin", device), batch=(1, batch, batch))
        device.close()
        trt.driver.device.calls.clear()
        header = {"version": trt.__version__, "portable": False, "profiles": [], "wrong": None} | header
        plan = trt._Plan.pack(header, b"DeformAttn")
        info = EngineInfo(
            ENGINE_SCHEMA, key, sha256(plan), len(plan), (), "2026-01-01T00:00:00Z", 1.0, (1.0, 1.0)
        )
        write_engine(engine_path(key), info, plan, "{}")
        return trt

    return start


def frames(kit: Any, count: int = 1) -> np.ndarray:
    return np.zeros((count, *kit.size, 3), np.uint8)


UPLOAD, DOWNLOADS = ["cuMemcpyHtoDAsync"], 6 * ["cuMemcpyDtoHAsync"]
CONTEXT = ("cuCtxPushCurrent", "cuCtxPopCurrent")


def test_the_second_frame_is_recorded_and_the_third_only_launched(
    store: Start, bundle: Bundle, kit: Any
) -> None:
    device = store().driver.device
    backend = open_backend(bundle, OpenOptions("tensorrt"))
    seen = []
    for _ in range(4):
        device.calls.clear()
        backend.infer(frames(kit))
        assert (device.calls[0], device.calls[-1]) == CONTEXT
        seen.append([call for call in device.calls if call not in CONTEXT])
    recorded = [
        "cuStreamBeginCapture",
        *DOWNLOADS,
        "cuStreamEndCapture",
        "cuGraphInstantiate",
        "cuGraphDestroy",
    ]
    launched = [*UPLOAD, "cuGraphLaunch", "cuStreamSynchronize"]
    assert seen == [[*UPLOAD, *DOWNLOADS, "cuStreamSynchronize"], recorded + launched, launched, launched]
    backend.close()
    backend.close()


def on_gpu(trt: ModuleType, kit: Any, seed: int, pitch: int) -> tuple[Any, np.ndarray]:
    """Return the address of a frame in the primary context, whose rows are `pitch` bytes apart, and the frame."""
    driver = trt.driver
    image = np.random.default_rng(seed).integers(0, 256, (*kit.size, 3), dtype=np.uint8)
    driver.cuInit(0)
    driver.cuCtxPushCurrent(driver.cuDevicePrimaryCtxRetain(0)[1])
    pointer = int(driver.cuMemAlloc(pitch * len(image))[1])
    for row, pixels in enumerate(image):
        driver.device.at(pointer + row * pitch, pixels.nbytes)[:] = pixels.tobytes()
    driver.cuCtxPopCurrent()
    return pointer, image


def free(trt: ModuleType, *pointers: int) -> None:
    for pointer in pointers:
        trt.driver.cuCtxPushCurrent(0xC0)
        trt.driver.cuMemFree(pointer)
        trt.driver.cuCtxPopCurrent()
        trt.driver.cuDevicePrimaryCtxRelease(0)


def network_input(trt: ModuleType, backend: Any, count: int, kit: Any) -> np.ndarray:
    shape = (count, *kit.size, 3)
    data = trt.driver.device.at(backend._input.buffer.device, int(np.prod(shape)))
    return np.frombuffer(data, np.uint8).reshape(shape)


def test_frames_on_the_gpu_reach_the_network_without_the_host(store: Start, bundle: Bundle, kit: Any) -> None:
    trt = store(batch=2)
    device, pitch = trt.driver.device, 3 * kit.size[1]
    pointers, images = zip(*(on_gpu(trt, kit, *case) for case in ((0, pitch), (1, pitch + 24))), strict=True)
    with Streams.open(bundle.path, backend="tensorrt") as streams:
        exports = [
            DLPackArray(pointer, image.shape, strides=(step, 3, 1))
            for pointer, image, step in zip(pointers, images, (pitch, pitch + 24), strict=True)
        ]
        for _ in range(3):  # plain, recorded, launched
            device.calls.clear()
            results = streams.step({"door": exports[0], "yard": exports[1], "host": images[0]})
            assert device.calls.count("cuMemcpy2DAsync") == 2
            assert device.calls.count("cuMemcpyHtoDAsync") == 1
            assert np.array_equal(network_input(trt, streams.backend, 1, kit)[0], images[0])
            assert len(results) == 3
        with pytest.raises(
            FrameError, match=r"stream yard: frame 3 is 16x23 on the GPU, the network takes 16x24"
        ):
            streams.step({"door": exports[0], "yard": DLPackArray(pointers[0], (16, 23, 3))})
        batch = [streams.backend.take(array, "frame") for array in exports]
        streams.backend.infer(batch)
        assert np.array_equal(network_input(trt, streams.backend, 2, kit), images)
        del batch
        assert [array.deleted for array in exports] == [len(array.streams) for array in exports]
        assert set(exports[0].streams) == {streams.backend._device.stream}
        with pytest.raises(FrameError, match=r"frame 0 lies on the GPU, where it may change"):
            streams.join("new").prepare(exports[0])
    free(trt, *pointers)


def test_a_producer_that_is_still_writing_is_waited_for(store: Start, bundle: Bundle, kit: Any) -> None:
    trt = store()
    driver, pitch = trt.driver, 3 * kit.size[1]
    pointer, image = on_gpu(trt, kit, 0, pitch)
    with Pipeline.open(bundle.path, backend="tensorrt") as pipeline:

        def write(value: int) -> None:
            def change() -> None:
                driver.device.at(pointer, image.nbytes)[:] = bytes([value]) * image.nbytes

            driver.device.queue(stream, change)

        driver.cuCtxPushCurrent(0xC0)
        stream = int(driver.cuStreamCreate(0)[1])
        dlpack = DLPackArray(pointer, image.shape, wait=lambda ours: driver.device.queue(ours, drain))
        drain = lambda: driver._drain(stream)  # noqa: E731
        for value, frame in enumerate(
            (
                dlpack,
                InterfaceArray(pointer, image.shape, stream=stream),
                InterfaceArray(pointer, image.shape),
            )
        ):
            write(value)
            pipeline.step(frame)
            assert np.all(network_input(trt, pipeline.backend, 1, kit) == value)
        driver.cuStreamDestroy(stream)
        driver.cuCtxPopCurrent()
    free(trt, pointer)


def test_an_application_of_pycuda(store: Start, bundle: Bundle, kit: Any) -> None:
    """Its context holds the engine and its frames, and is current after every call, as before."""
    trt = store()
    device = trt.driver.device
    pycuda = importlib.import_module("pycuda.driver")
    pycuda.init()
    context = pycuda.Device(0).make_context()
    stream = pycuda.Stream()
    image = np.random.default_rng(0).integers(0, 256, (*kit.size, 3), dtype=np.uint8)
    for given in (None, stream, SimpleNamespace(handle=0)):
        frame = pycuda.GPUArray(image, pitch=128)
        with Pipeline.open(bundle.path, backend="tensorrt", stream=given) as pipeline:
            for each in 3 * (frame,):
                pipeline.step(each)
                assert device.stack == [context.handle]
                assert np.array_equal(network_input(trt, pipeline.backend, 1, kit)[0], image)
            with pytest.raises(FrameError, match="on the GPU, the network takes"):
                pipeline.step(InterfaceArray(frame.gpudata, (8, 8, 3)))
            device.memory.pop(frame.gpudata)  # as a producer that frees too early
            with pytest.raises(BackendError, match="ILLEGAL_ADDRESS"):
                pipeline.step(frame)
            assert device.stack == [context.handle]
            recorded = given is None or given is stream
            assert ("does not record the default stream" in pipeline.backend.reason) is not recorded
        assert device.stack == [context.handle]
        assert not device.retained
    with pytest.raises(BackendError, match="no engine"):
        open_backend(bundle, OpenOptions("tensorrt", graph="portable"))
    stream.free()
    context.detach()


def test_answers_stay_when_the_next_frame_comes(store: Start, bundle: Bundle, kit: Any) -> None:
    trt = store()
    backend = open_backend(bundle, OpenOptions("tensorrt"))
    (first,) = backend.infer(frames(kit))
    for name, expected in bundle.golden_frame().outputs.items():
        answer = getattr(first, name)
        assert answer.dtype == np.float32
        np.testing.assert_array_equal(answer, expected)
    kept = first.boxes.copy()
    backend._loaded.engine._header["wrong"] = ("boxes", 2.0)
    (second,) = backend.infer(frames(kit))
    np.testing.assert_array_equal(first.boxes, kept)
    np.testing.assert_array_equal(second.boxes, 2 * kept)
    assert trt.driver.device.alive() == [7, 7, 1, 0, 1, 1]
    backend.close()


def test_another_thread_may_use_it(store: Start, bundle: Bundle, kit: Any) -> None:
    store()
    backend = open_backend(bundle, OpenOptions("tensorrt"))
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.extend(backend.infer(frames(kit))))
    thread.start()
    thread.join()
    assert len(found) == 1
    backend.close()


def test_what_cannot_be_recorded_is_run_as_before_and_says_so(store: Start, bundle: Bundle, kit: Any) -> None:
    trt = store()
    trt.unrecordable = True
    backend = open_backend(bundle, OpenOptions("tensorrt"))
    for _ in range(3):
        (answer,) = backend.infer(frames(kit))
        np.testing.assert_array_equal(answer.boxes, bundle.golden_frame().outputs["boxes"])
    assert "not one CUDA graph" in backend.reason
    assert "CUDA_ERROR_STREAM_CAPTURE_INVALIDATED" in backend.reason
    backend.close()


def test_frames_of_another_kind_are_refused(store: Start, bundle: Bundle, kit: Any) -> None:
    store()
    backend = open_backend(bundle, OpenOptions("tensorrt"))
    for wrong in (frames(kit)[:, 1:], frames(kit).astype(np.float32)):
        with pytest.raises(BackendError, match=r"takes uint8 frames of 16x24x3, got .*; resize them first"):
            backend.infer(wrong)
    backend.close()


def test_a_device_that_fails_later_is_a_backend_error(
    store: Start, bundle: Bundle, kit: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    trt = store()
    backend = open_backend(bundle, OpenOptions("tensorrt"))

    def fault(_: Any) -> None:
        raise trt.driver.DriverError(trt.driver.CUresult.CUDA_ERROR_ILLEGAL_ADDRESS)

    monkeypatch.setattr(trt, "_execute", fault)
    with pytest.raises(
        BackendError, match="cuStreamSynchronize fails with error 700, CUDA_ERROR_ILLEGAL_ADDRESS"
    ):
        backend.infer(frames(kit))
    backend.close()


def test_a_plan_of_another_release_is_refused_though_its_file_claims_otherwise(
    store: Start, bundle: Bundle
) -> None:
    store(version="10.7.0")
    refusal = r"TensorRT 10\.16\.1\.11 refuses the engine: expecting library version .*; build it again: idol-deploy"
    with pytest.raises(BackendError, match=refusal):
        open_backend(bundle, OpenOptions("tensorrt"))


def test_without_an_engine_the_command_is_named(fake_tensorrt: Start, bundle: Bundle) -> None:
    fake_tensorrt()
    with pytest.raises(BackendError, match=f"no engine of .*; build one: idol-deploy build {bundle.path}"):
        open_backend(bundle, OpenOptions("tensorrt"))


def test_what_is_not_there(
    store: Start, bundle: Bundle, monkeypatch: pytest.MonkeyPatch, fake_tensorrt: Start
) -> None:
    store()
    for device in ("cpu", "cuda:x", "auto:1", "gpu"):
        with pytest.raises(BackendError, match=r"use (--device cuda or|cpu, cuda,) cuda:N"):
            open_backend(bundle, OpenOptions("tensorrt", device=device))
    with pytest.raises(ConfigError, match="choose one of: auto, onnxruntime, openvino, tensorrt"):
        open_backend(bundle, OpenOptions("tensorflow"))
    fake_tensorrt("8.6")
    with pytest.raises(BackendError, match=r"TensorRT 8\.6\.1 is too old; install 10\.3 or newer"):
        open_backend(bundle, OpenOptions("tensorrt"))
    monkeypatch.setitem(__import__("sys").modules, "tensorrt", None)
    with pytest.raises(MissingDependencyError, match=r"idol-deploy\[tensorrt\]"):
        open_backend(bundle, OpenOptions("tensorrt"))
