"""The protocol of an inference backend, and the options to open one."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from idol_runtime.bundle.bundle import GRAPHS, Bundle, GraphName
from idol_runtime.bundle.certificates import Engine, ReducedName, current_name
from idol_runtime.device_frames import DeviceFrame, DeviceFrames
from idol_runtime.errors import BackendError, ConfigError
from idol_runtime.tracking.detection import NetworkOutput

__all__ = [
    "Backend",
    "BatchLimit",
    "BundleBackend",
    "DeviceBackend",
    "GraphChoice",
    "ImageBatch",
    "OpenOptions",
    "check_threads",
    "device_kind",
    "split_batch",
]

_MAX_THREADS = 1024
ImageBatch: TypeAlias = NDArray[np.uint8]  # [N, h, w, 3] RGB
GraphChoice: TypeAlias = GraphName | Literal["auto", "fp32"]


@dataclass(frozen=True)
class OpenOptions:
    """Options to open a bundle's network.

    Every `auto` leaves a choice, which `choice.open_backend` makes: the fastest candidate on this machine.

    Attributes:
        backend: name of a backend in `opening.BACKENDS`, or `auto`.
        device: `cpu`, `cuda`, `cuda:N`, or Intel's `gpu`, `gpu:N` or `npu`; `auto`: every CPU and CUDA device that the
            backend finds.
        threads: number of CPU threads, 1 to 1024; None: the engine's default.
        graph: name of the bundle's graph; `fp32`: any fp32 graph; `auto`: any fp32 graph, and any reduced-precision
            graph that is certified for the engine and the processor.
        stream: CUDA stream of the application for TensorRT to run in, with its context; see `CudaDevice`. None: a
            new stream. Other backends do not use it.
    """

    backend: str = "auto"
    device: str = "auto"
    threads: int | None = None
    graph: GraphChoice = "auto"
    stream: object = None

    def __post_init__(self) -> None:
        """Check the device, the number of threads and the graph's name.

        Raises:
            ConfigError: the graph is unknown, or the number of threads is out of range.
            BackendError: the device is unknown.
        """
        object.__setattr__(self, "graph", current_name(self.graph))
        check_threads(self.threads)
        if self.device != "auto":
            device_kind(self.device)
        if self.graph not in ("auto", "fp32", *GRAPHS):
            raise ConfigError(f"unknown graph {self.graph!r}; choose one of: auto, fp32, {', '.join(GRAPHS)}")


@dataclass(frozen=True)
class BatchLimit:
    """The largest batch that a backend may run.

    Attributes:
        most: number of frames; None: no limit.
        why: reason of the limit and how to raise it.
    """

    most: int | None = None
    why: str = ""

    def at_most(self, frames: int) -> int:
        """Return `frames`, or the limit if it is lower."""
        return frames if self.most is None else min(frames, self.most)


class Backend(Protocol):
    """An inference engine that runs the network on resized frames.

    Attributes:
        name: engine, device and graph: `onnxruntime (cpu, plugin graph)`.
        graph: name of the bundle's graph; None for a network without a bundle.
        reason: why this backend and graph were chosen, and how to get a faster one; empty if there was no choice.
        network_size: (h, w) of the frames in pixels; None: any size.
        batch: largest batch in which no frame changes another frame's outputs.
    """

    @property
    def name(self) -> str: ...

    @property
    def graph(self) -> GraphName | None: ...

    @property
    def reason(self) -> str: ...

    @property
    def network_size(self) -> tuple[int, int] | None: ...

    @property
    def batch(self) -> BatchLimit: ...

    def infer(self, images: ImageBatch) -> list[NetworkOutput]:
        """Run the network and return one output per frame."""

    def close(self) -> None:
        """Free all resources; the backend cannot be used afterwards."""


class DeviceBackend(Backend, Protocol):
    """A backend that also takes frames in the memory of its CUDA device."""

    def take(self, frame: object, name: str) -> DeviceFrame:
        """Take a frame for the next `infer`; `import_frame` has the arguments and errors."""

    def infer(self, images: ImageBatch | DeviceFrames) -> list[NetworkOutput]:
        """Run the network and return one output per frame."""


class BundleBackend(Backend, Protocol):
    """A backend that loads a graph of a bundle.

    `opening.BACKENDS` lists these classes. Their modules must load without the inference engine.

    Attributes:
        engine: name of the inference engine in `opening.BACKENDS` and in certificates.
        title: name of the inference engine in messages: `ONNX Runtime`.
        devices: kinds of device, among `cpu`, `cuda`, `gpu` and `npu`, the preferred one first.
        fp32_graphs: fp32 graphs that it runs, the preferred one first.
        timed: reduced-precision graphs worth timing against fp32, by kind of device; None: it runs engines that
            `idol-deploy build` stored.
        reason: see `Backend`.
    """

    engine: ClassVar[Engine]
    title: ClassVar[str]
    devices: ClassVar[tuple[str, ...]]
    fp32_graphs: ClassVar[tuple[GraphName, ...]]
    timed: ClassVar[Mapping[str, tuple[ReducedName, ...]] | None]
    reason: str

    @classmethod
    def available_devices(cls) -> Sequence[str]:
        """Return the devices of this machine to use without being asked, the preferred one first.

        Raises:
            MissingDependencyError: the inference engine is not installed.
            BackendError: the installation is broken, or there is no device for it.
        """

    @classmethod
    def from_bundle(cls, bundle: Bundle, graph: GraphName, options: OpenOptions) -> "BundleBackend":
        """Load a graph.

        Args:
            bundle: bundle of the graph.
            graph: graph to run; `options.graph` is not used.
            options: device (not `auto`), number of threads and stream.

        Raises:
            MissingDependencyError: the inference engine is not installed.
            PluginError: the operator's library is not built, or is made for another release of the engine.
            BackendError: the bundle lacks the graph, or the engine refuses the graph or the device.
        """


def check_threads(threads: int | None) -> None:
    """Check a number of CPU threads.

    Raises:
        ConfigError: the number is not between 1 and 1024.
    """
    if threads is not None and not 1 <= threads <= _MAX_THREADS:
        raise ConfigError(f"threads must lie between 1 and {_MAX_THREADS}, got {threads}")


def device_kind(device: str) -> str:
    """Return the kind of a device: `cpu`, `cuda`, `gpu` or `npu`.

    Args:
        device: `cpu`, `cuda`, `cuda:N`, `gpu`, `gpu:N` or `npu`.

    Raises:
        BackendError: the device is unknown.
    """
    kind, _, index = device.partition(":")
    if device not in ("cpu", "npu") and not (kind in ("cuda", "gpu") and (index or "0").isdecimal()):
        raise BackendError(f"unknown device {device!r}; use cpu, cuda, cuda:N, gpu, gpu:N or npu")
    return kind


def split_batch(
    outputs: Mapping[str, NDArray[np.float32]],  # by output name, each [N, ...]
) -> list[NetworkOutput]:
    """Split the outputs of a batch into one output per frame."""
    frames = len(next(iter(outputs.values())))
    return [NetworkOutput(**{name: array[i] for name, array in outputs.items()}) for i in range(frames)]
