"""TensorRT on a CUDA device: an engine of `idol-deploy build`, run from pinned memory on a stream of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from idol_plugins.trt import trt_library
from idol_runtime.backends.base import BatchLimit, GraphChoice
from idol_runtime.backends.cuda_device import Buffer, CudaDevice, device_index
from idol_runtime.backends.engine_choice import TARGETS, choose_engine
from idol_runtime.backends.tensorrt_api import import_tensorrt, load_plugin, tensorrt_log
from idol_runtime.bundle.bundle import OUTPUT_NAMES, Bundle, GraphName, TensorInfo
from idol_runtime.bundle.engine_file import EngineKey, read_plan
from idol_runtime.errors import BackendError
from idol_runtime.tracking.detection import NetworkOutput

if TYPE_CHECKING:
    import tensorrt as trt

__all__ = ["TensorRTBackend"]

# By the names of `trt.DataType`: what inputs and outputs of our graphs can be.
_DTYPES: Mapping[str, type[np.generic]] = {"UINT8": np.uint8, "FLOAT": np.float32, "HALF": np.float16}


@dataclass(frozen=True)
class _Tensor:
    """An input or output: its memory, and shape and type of one frame."""

    name: str
    buffer: Buffer
    shape: tuple[int, ...]
    dtype: type[np.generic]

    def bytes(self, frames: int) -> int:
        return frames * int(np.prod(self.shape)) * np.dtype(self.dtype).itemsize

    def view(self, frames: int) -> NDArray[Any]:
        return self.buffer.view((frames, *self.shape), self.dtype)


class TensorRTBackend:
    """An engine with its context, and memory for as many frames as it takes at once.

    Copies and network are recorded as one CUDA graph when as many frames come twice in a row: TensorRT wants an
    ordinary run before it is recorded, and another number of frames makes a recording worthless.
    """

    targets = TARGETS
    devices = ("cuda",)

    def __init__(self, plan: bytes, key: EngineKey, bundle: Bundle, device: CudaDevice) -> None:
        """Load an engine. The device is closed with it, and also if this fails.

        Args:
            plan: what TensorRT built.
            key: what it was built for.
            bundle: whose graph it is; says which inputs and outputs it must have.
            device: where to run it.

        Raises:
            BackendError: TensorRT refuses the engine, or it is another than promised.
        """
        manifest = bundle.manifest
        self._device, self._size, self._most = device, manifest.network_size, key.batch[2]
        self._graph_name = key.graph
        self._name = f"tensorrt {key.tensorrt} ({device.name}, {key.graph} graph, {key.precision})"
        self._loaded: _Loaded | None = None
        self._graph: Any = None
        self._frames = 0
        self._unrecordable = ""
        try:
            device.activate()
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
    def from_bundle(
        cls, bundle: Bundle, device: str = "auto", graph: GraphChoice = "auto"
    ) -> TensorRTBackend:
        """Load the stored engine of a bundle that fits this machine.

        Args:
            bundle: whose engine.
            device: `auto`, `cuda` or `cuda:N`.
            graph: of which graph; `auto`: of whichever was fastest when it was built.

        Raises:
            MissingDependencyError: TensorRT is not installed.
            BackendError: there is no device, or no engine that fits; names the command that builds one.
        """
        import_tensorrt()
        cuda = CudaDevice(device_index(device))
        try:
            path, info = choose_engine(bundle, graph, cuda)
            try:
                return cls(read_plan(path, info), info.key, bundle, cuda)
            except BackendError as error:
                raise BackendError(f"{error}; build it again: idol-deploy build {bundle.path}") from error
        except BaseException:
            cuda.close()
            raise

    @property
    def name(self) -> str:
        """Engine, device, graph and precision."""
        return self._name

    @property
    def graph(self) -> GraphName:
        """Which of the bundle's."""
        return self._graph_name

    @property
    def reason(self) -> str:
        """Why its work is not recorded as one CUDA graph, if it was tried and is not."""
        return self._unrecordable

    @property
    def network_size(self) -> tuple[int, int] | None:
        """(h, w) of the frames it takes."""
        return self._size

    @property
    def batch(self) -> BatchLimit:
        """How many of them at once."""
        return BatchLimit(self._most, f"the engine takes {self._most} at once; build it with --max-batch")

    def infer(
        self,
        images: NDArray[np.uint8],  # [N, h, w, 3]
    ) -> list[NetworkOutput]:
        """Run the network, on as many frames at once as the engine takes; one output per frame.

        Raises:
            BackendError: the frames are of another size or type, or the device fails.
        """
        if images.dtype != np.uint8 or images.shape[1:] != (*self._size, 3):
            raise BackendError(
                f"{self._name} takes uint8 frames of {self._size[0]}x{self._size[1]}x3, "
                f"got {images.dtype} of {'x'.join(map(str, images.shape[1:]))}; resize them first"
            )
        found: list[NetworkOutput] = []
        for start in range(0, len(images), self._most):
            found += self._run(images[start : start + self._most])
        return found

    def layers(self) -> str:
        """TensorRT's account of the engine's layers, as JSON."""
        import tensorrt as trt

        assert self._loaded is not None, "closed"
        inspector = self._loaded.engine.create_engine_inspector()
        inspector.execution_context = self._loaded.context  # else what depends on the batch is left out
        return inspector.get_engine_information(trt.LayerInformationFormat.JSON)

    def close(self) -> None:
        """Free the engine and all memory; again is no harm."""
        if self._graph is not None:
            graph, self._graph = self._graph, None
            self._device.forget(graph)
        self._loaded = None
        self._device.close()

    def _run(self, images: NDArray[np.uint8]) -> list[NetworkOutput]:
        frames = len(images)
        self._device.activate()  # the caller may be another thread than the last one
        self._input.view(frames)[...] = images
        again = frames == self._frames
        if not again:
            self._set_frames(frames)
        elif self._graph is None and not self._unrecordable:
            self._record()
        if self._graph is not None:
            self._device.launch(self._graph)
        else:
            self._enqueue()
        self._device.synchronize()
        # Copies: the next frame overwrites the pinned memory.
        arrays = {
            tensor.name: np.array(tensor.view(frames), np.float32)
            for tensor in self._outputs
            if tensor.name in OUTPUT_NAMES
        }
        return [NetworkOutput(**{name: array[i] for name, array in arrays.items()}) for i in range(frames)]

    def _set_frames(self, frames: int) -> None:
        assert self._loaded is not None, "closed"
        self._frames = 0
        if self._graph is not None:
            self._device.forget(self._graph)
            self._graph = None
        if not self._loaded.context.set_input_shape(self._input.name, (frames, *self._input.shape)):
            raise BackendError(f"{self._name} refuses {frames} frames at once: {tensorrt_log().reason()}")
        self._frames = frames

    def _record(self) -> None:
        try:
            self._graph = self._device.record(self._enqueue)
        except BackendError as error:
            self._unrecordable = f"its work is not one CUDA graph, which would be faster: {error}"

    def _enqueue(self) -> None:
        assert self._loaded is not None, "closed"
        log = tensorrt_log()
        log.clear()
        self._device.upload(self._input.buffer, self._input.bytes(self._frames))
        if not self._loaded.context.execute_async_v3(self._device.stream):
            raise BackendError(f"{self._name} failed: {log.reason()}")
        for tensor in self._outputs:
            self._device.download(tensor.buffer, tensor.bytes(self._frames))

    def _allocate(self, loaded: _Loaded, promised: TensorInfo) -> _Tensor:
        """Memory for the most frames, and its address to the context."""
        dtype = _DTYPES[loaded.engine.get_tensor_dtype(promised.name).name]
        shape = promised.shape[1:]
        size = self._most * int(np.prod(shape)) * np.dtype(dtype).itemsize
        tensor = _Tensor(promised.name, self._device.buffer(size), shape, dtype)
        if not loaded.context.set_tensor_address(tensor.name, tensor.buffer.device):
            raise BackendError(f"{self._name} refuses memory for {tensor.name}: {tensorrt_log().reason()}")
        return tensor


@dataclass
class _Loaded:
    """In the order in which they must go: a context needs its engine, an engine its runtime."""

    context: trt.IExecutionContext
    engine: trt.ICudaEngine
    runtime: trt.Runtime


def _load(plan: bytes, key: EngineKey) -> _Loaded:
    import tensorrt as trt

    log = tensorrt_log()
    log.clear()
    runtime = trt.Runtime(log.logger)
    if key.version_compat:  # such an engine brings the part of TensorRT that built it
        runtime.engine_host_code_allowed = True
    engine = runtime.deserialize_cuda_engine(plan)
    if engine is None:
        raise BackendError(f"TensorRT {key.tensorrt} refuses the engine: {log.reason()}")
    context = engine.create_execution_context()
    if context is None:
        raise BackendError(f"there is no room for the engine's memory on the device: {log.reason()}")
    return _Loaded(context, engine, runtime)


def _check_tensors(engine: trt.ICudaEngine, promised: Sequence[TensorInfo], path: Path) -> None:
    """That an engine has the inputs and outputs that the manifest names, in types that there are."""
    found = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
    if set(found) != {tensor.name for tensor in promised}:
        raise BackendError(
            f"{path}: the engine has {found}, its manifest promises {[t.name for t in promised]}"
        )
    for tensor in promised:
        dtype, dims = engine.get_tensor_dtype(tensor.name).name, engine.get_tensor_shape(tensor.name)
        shape = tuple(dims[axis] for axis in range(len(dims)))
        if dtype not in _DTYPES or shape[1:] != tensor.shape[1:]:
            raise BackendError(
                f"{path}: the engine's {tensor.name} is {dtype} of {shape}, its manifest promises {tensor.shape}"
            )
