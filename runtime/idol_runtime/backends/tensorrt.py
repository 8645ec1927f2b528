"""TensorRT on a CUDA device: runs an engine of `idol-deploy build` from pinned memory on its own stream."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from idol_plugins.trt import trt_library
from idol_runtime.backends.base import BatchLimit, ImageBatch, OpenOptions, split_batch
from idol_runtime.backends.cuda_device import Buffer, CudaDevice, device_index, pci_bus_id
from idol_runtime.backends.engine_choice import choose_engine
from idol_runtime.backends.tensorrt_api import import_tensorrt, load_plugin, tensorrt_log
from idol_runtime.bundle.bundle import OUTPUT_NAMES, Bundle, GraphName, TensorInfo
from idol_runtime.bundle.certificates import Engine, ReducedName
from idol_runtime.bundle.engine_file import EngineKey, read_plan
from idol_runtime.device_frames import DeviceFrame, DeviceFrames, import_frame
from idol_runtime.errors import BackendError
from idol_runtime.tracking.detection import NetworkOutput

if TYPE_CHECKING:
    import tensorrt as trt

__all__ = ["TensorRTBackend"]

# Types of the graphs' inputs and outputs, by the name of their `trt.DataType`.
_DTYPES: Mapping[str, type[np.generic]] = {"UINT8": np.uint8, "FLOAT": np.float32, "HALF": np.float16}


@dataclass(frozen=True)
class _Tensor:
    """An input or output of the engine: its memory, and the shape and type of one frame."""

    name: str
    buffer: Buffer
    shape: tuple[int, ...]
    dtype: type[np.generic]

    def view(self, frames: int) -> NDArray[Any]:
        return self.buffer.view((frames, *self.shape), self.dtype)


class TensorRTBackend:
    """A TensorRT engine with its context, and memory for its largest batch.

    The second of two equal batch sizes in a row is recorded as one CUDA graph of network and downloads: TensorRT needs
    an ordinary run before the recording, and a recording holds for one batch size only.
    """

    engine: ClassVar[Engine] = "tensorrt"
    title: ClassVar = "TensorRT"
    devices: ClassVar[tuple[str, ...]] = ("cuda",)
    fp32_graphs: ClassVar[tuple[GraphName, ...]] = ("plugin", "tensorrt", "portable")
    timed: ClassVar[Mapping[str, tuple[ReducedName, ...]] | None] = None

    def __init__(self, plan: bytes, key: EngineKey, bundle: Bundle, device: CudaDevice) -> None:
        """Load an engine. `close` also closes the device, and so does a failure here.

        Args:
            plan: serialized engine.
            key: key of the engine.
            bundle: bundle of the engine's graph; its manifest lists the inputs and outputs.
            device: device to run on.

        Raises:
            BackendError: TensorRT refuses the engine, or its inputs and outputs differ from the manifest.
        """
        manifest = bundle.manifest
        self._device, self._max_frames = device, key.batch[2]
        self.network_size: tuple[int, int] | None = manifest.network_size
        self.graph: GraphName | None = key.graph
        self.name = f"tensorrt {key.tensorrt} ({device.name}, {key.graph} graph, {key.precision})"
        self.batch = BatchLimit(
            key.batch[2], f"the engine takes {key.batch[2]} at once; build it with --max-batch"
        )
        self.reason = ""
        self._loaded: _Loaded | None = None
        self._recording: Any = None
        self._recordable = True
        self._frames = 0
        try:
            with device.active():
                if key.plugin_sha256:
                    load_plugin(trt_library())
                self._loaded = loaded = _load(plan, key)
                _check_tensors(loaded.engine, (*manifest.inputs, *manifest.outputs), bundle.path)
                self._input, *self._outputs = (
                    self._allocate(loaded, tensor) for tensor in (*manifest.inputs, *manifest.outputs)
                )
        except BaseException:
            self.close()
            raise

    @classmethod
    def available_devices(cls) -> Sequence[str]:
        """Return the first CUDA device; see `BundleBackend`."""
        import_tensorrt()
        pci_bus_id(0)
        return ("cuda",)

    @classmethod
    def from_bundle(cls, bundle: Bundle, graph: GraphName, options: OpenOptions) -> TensorRTBackend:
        """Load the fastest stored engine of a graph that fits this machine; see `BundleBackend`.

        Raises:
            MissingDependencyError: TensorRT is not installed.
            BackendError: the device does not exist, or no engine fits; the message gives the build command.
        """
        import_tensorrt()
        cuda = CudaDevice(device_index(options.device), options.stream)
        try:
            path, info = choose_engine(bundle, graph, cuda)
            try:
                return cls(read_plan(path, info), info.key, bundle, cuda)
            except BackendError as error:
                raise BackendError(f"{error}; build it again: idol-deploy build {bundle.path}") from error
        except BaseException:
            cuda.close()
            raise

    def take(self, frame: object, name: str) -> DeviceFrame:
        """Take a frame on the GPU for the next `infer`; see `import_frame`."""
        height, width, _ = self._input.shape
        device = self._device
        return import_frame(
            frame, name, size=(height, width), device=device.index, stream=device.stream, wait=device.wait_for
        )

    def infer(self, images: ImageBatch | DeviceFrames) -> list[NetworkOutput]:
        """Run the network in batches that the engine takes, and return one output per frame.

        Args:
            images: frames of the host, or frames of `take`.

        Raises:
            BackendError: the frames have another size or type, or the device fails.
        """
        shape = self._input.shape
        if isinstance(images, np.ndarray) and (images.dtype != np.uint8 or images.shape[1:] != shape):
            raise BackendError(
                f"{self.name} takes uint8 frames of {'x'.join(map(str, shape))}, "
                f"got {images.dtype} of {'x'.join(map(str, images.shape[1:]))}; resize them first"
            )
        outputs: list[NetworkOutput] = []
        with self._device.active():  # the caller may be another thread than the last one
            for start in range(0, len(images), self._max_frames):
                outputs += self._run(images[start : start + self._max_frames])
        return outputs

    def layers(self) -> str:
        """Return TensorRT's description of the engine's layers as JSON."""
        import tensorrt as trt

        assert self._loaded is not None, "closed"
        with self._device.active():
            inspector = self._loaded.engine.create_engine_inspector()
            inspector.execution_context = self._loaded.context  # otherwise batch-dependent fields are missing
            return inspector.get_engine_information(trt.LayerInformationFormat.JSON)

    def close(self) -> None:
        """Free the engine and all memory; a second call does nothing."""
        if self._loaded is not None:
            with self._device.active():
                self._drop_recording()
                self._loaded = None
        self._device.close()

    def _run(self, images: ImageBatch | DeviceFrames) -> list[NetworkOutput]:
        frames = len(images)
        if frames != self._frames:
            self._set_frames(frames)
        elif self._recording is None and self._recordable:
            self._record()
        self._upload(images)
        if self._recording is not None:
            self._device.launch(self._recording)
        else:
            self._enqueue()
        self._device.synchronize()
        # Copies: the next frame overwrites the pinned memory.
        return split_batch(
            {
                tensor.name: np.array(tensor.view(frames), np.float32)
                for tensor in self._outputs
                if tensor.name in OUTPUT_NAMES
            }
        )

    def _upload(self, images: ImageBatch | DeviceFrames) -> None:
        """Queue the copies of the frames to the engine's input."""
        if isinstance(images, np.ndarray):
            self._input.view(len(images))[...] = images
            self._device.upload(self._input.buffer, images.nbytes)
            return
        height, width, channels = self._input.shape
        for index, frame in enumerate(images):
            target = self._input.buffer.device + index * height * width * channels
            self._device.copy_rows(target, frame.pointer, frame.pitch, height, width * channels)

    def _set_frames(self, frames: int) -> None:
        assert self._loaded is not None, "closed"
        self._frames = 0
        self._drop_recording()
        if not self._loaded.context.set_input_shape(self._input.name, (frames, *self._input.shape)):
            raise BackendError(f"{self.name} refuses {frames} frames at once: {tensorrt_log().reason()}")
        self._frames = frames

    def _record(self) -> None:
        try:
            self._recording = self._device.record(self._enqueue)
        except BackendError as error:
            self._recordable = False
            self.reason = f"its work is not one CUDA graph, which would be faster: {error}"

    def _drop_recording(self) -> None:
        if self._recording is not None:
            recording, self._recording = self._recording, None
            self._device.forget(recording)

    def _enqueue(self) -> None:
        assert self._loaded is not None, "closed"
        log = tensorrt_log()
        log.clear()
        if not self._loaded.context.execute_async_v3(self._device.stream):
            raise BackendError(f"{self.name} failed: {log.reason()}")
        for tensor in self._outputs:
            self._device.download(tensor.buffer, tensor.view(self._frames).nbytes)

    def _allocate(self, loaded: _Loaded, promised: TensorInfo) -> _Tensor:
        """Allocate memory for the largest batch and give its address to the context."""
        dtype = _DTYPES[loaded.engine.get_tensor_dtype(promised.name).name]
        shape = promised.shape[1:]
        size = self._max_frames * int(np.prod(shape)) * np.dtype(dtype).itemsize
        tensor = _Tensor(promised.name, self._device.buffer(size), shape, dtype)
        if not loaded.context.set_tensor_address(tensor.name, tensor.buffer.device):
            raise BackendError(f"{self.name} refuses memory for {tensor.name}: {tensorrt_log().reason()}")
        return tensor


@dataclass
class _Loaded:
    """An engine in use. Fields are freed in this order: a context needs its engine, an engine its runtime."""

    context: trt.IExecutionContext
    engine: trt.ICudaEngine
    runtime: trt.Runtime


def _load(plan: bytes, key: EngineKey) -> _Loaded:
    import tensorrt as trt

    log = tensorrt_log()
    log.clear()
    runtime = trt.Runtime(log.logger)
    if key.version_compat:  # such an engine contains a part of the TensorRT that built it
        runtime.engine_host_code_allowed = True
    engine = runtime.deserialize_cuda_engine(plan)
    if engine is None:
        raise BackendError(f"TensorRT {key.tensorrt} refuses the engine: {log.reason()}")
    context = engine.create_execution_context()
    if context is None:
        raise BackendError(f"the device has too little memory for the engine: {log.reason()}")
    return _Loaded(context, engine, runtime)


def _check_tensors(engine: trt.ICudaEngine, promised: Sequence[TensorInfo], path: Path) -> None:
    """Check the engine's inputs and outputs against the manifest."""
    names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
    if set(names) != {tensor.name for tensor in promised}:
        raise BackendError(
            f"{path}: the engine has {names}, its manifest promises {[t.name for t in promised]}"
        )
    for tensor in promised:
        dtype, dims = engine.get_tensor_dtype(tensor.name).name, engine.get_tensor_shape(tensor.name)
        shape = tuple(dims[axis] for axis in range(len(dims)))
        if dtype not in _DTYPES or shape[1:] != tensor.shape[1:]:
            raise BackendError(
                f"{path}: the engine's {tensor.name} is {dtype} of {shape}, its manifest promises {tensor.shape}"
            )
