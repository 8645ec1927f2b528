"""What a backend is, and how one is chosen."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from idol_runtime.bundle.bundle import GRAPHS, Bundle, GraphName
from idol_runtime.bundle.engine_file import engines_of
from idol_runtime.errors import BackendError, ConfigError, IdolError
from idol_runtime.tracking.detection import NetworkOutput

if TYPE_CHECKING:
    from idol_runtime.backends.onnxruntime import OnnxRuntimeBackend
    from idol_runtime.backends.tensorrt import TensorRTBackend

__all__ = [
    "BACKENDS",
    "Backend",
    "BatchLimit",
    "GraphChoice",
    "FP32_GRAPHS",
    "backend_class",
    "check_threads",
    "device_kind",
    "meant",
    "open_backend",
]

BACKENDS = ("onnxruntime", "tensorrt")
_MOST_THREADS = 1024
GraphChoice: TypeAlias = GraphName | Literal["auto", "fp32"]
# fp32: what every other graph is judged by.
FP32_GRAPHS: tuple[GraphName, ...] = ("portable", "plugin")


@dataclass(frozen=True)
class BatchLimit:
    """How many frames may go through the network at once.

    Attributes:
        most: None: as many as come.
        why: it is not more, and how it could be.
    """

    most: int | None = None
    why: str = ""

    def at_most(self, frames: int) -> int:
        """That many, or what is allowed."""
        return frames if self.most is None else min(frames, self.most)


class Backend(Protocol):
    """Runs the network on resized frames.

    Those of `BACKENDS` also say, by `devices`, on which kinds they can, and by `dialects`, which graphs.

    Attributes:
        name: which engine, where, and which of the bundle's graphs: `onnxruntime (cpu, plugin graph)`.
        graph: the last alone; None for what is of no bundle.
        remark: why it is this graph, and how a faster one could be had; empty where there was nothing to choose.
        network_size: (h, w) of the frames it takes; None: any.
        batch: how many of them at once, so that none has a part in another's result.
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

    def infer(
        self,
        images: NDArray[np.uint8],  # [N, h, w, 3]
    ) -> list[NetworkOutput]:
        """Run the network; one output per frame."""
        ...

    def close(self) -> None:
        """Give back what it holds; it cannot be used afterwards."""
        ...


def open_backend(
    bundle: Bundle,
    backend: str = "auto",
    device: str = "auto",
    threads: int | None = None,
    graph: GraphChoice = "auto",
) -> Backend:
    """Load the bundle's graph into an inference engine.

    Args:
        bundle: where the graph is.
        backend: one of `BACKENDS`; `auto`: TensorRT where an engine of the bundle is stored that fits this machine,
            else ONNX Runtime, whose remark then says why.
        device: `cpu`, `cuda` or `cuda:N`; `auto`: the first CUDA device for TensorRT, the CPU for ONNX Runtime.
        threads: for the CPU; None: as many as the engine likes.
        graph: which of the bundle's; `auto`: the fastest that was verified and that the engine has what it takes for;
            `fp32`: of `plugin` and `portable`.

    Raises:
        ConfigError: no such backend, no such graph, or a number of threads that cannot be.
        MissingDependencyError: its package is not installed.
        BackendError: it refuses the graph or the device.
    """
    if backend not in ("auto", *BACKENDS):
        raise ConfigError(f"unknown backend {backend!r}; choose one of: auto, {', '.join(BACKENDS)}")
    if graph not in ("auto", "fp32", *GRAPHS):
        raise ConfigError(f"unknown graph {graph!r}; choose one of: auto, fp32, {', '.join(GRAPHS)}")
    if backend == "tensorrt":
        from idol_runtime.backends.tensorrt import TensorRTBackend

        if device == "cpu":
            raise BackendError(
                "TensorRT does not run on a CPU, ONNX Runtime does; leave out --backend, or use --device cuda or cuda:N"
            )
        return TensorRTBackend.from_bundle(bundle, device, graph)
    reason = ""
    if backend == "auto" and device != "cpu" and _has_engine(bundle, graph):
        from idol_runtime.backends.tensorrt import TensorRTBackend

        try:
            return TensorRTBackend.from_bundle(bundle, device, graph)
        except IdolError as error:
            reason = f"this is not TensorRT, which is faster: {error}"
    from idol_runtime.backends.onnxruntime import OnnxRuntimeBackend

    where = "cpu" if device == "auto" else device
    return OnnxRuntimeBackend.from_bundle(bundle, where, threads, graph, reason)


def check_threads(threads: int | None) -> None:
    """See that an engine can be asked for so many.

    Raises:
        ConfigError: it cannot.
    """
    if threads is not None and not 1 <= threads <= _MOST_THREADS:
        raise ConfigError(f"threads must lie between 1 and {_MOST_THREADS}, got {threads}")


def backend_class(backend: str) -> "type[OnnxRuntimeBackend] | type[TensorRTBackend]":
    """One of `BACKENDS`, whether or not its engine is installed."""
    if backend == "tensorrt":
        from idol_runtime.backends.tensorrt import TensorRTBackend

        return TensorRTBackend
    from idol_runtime.backends.onnxruntime import OnnxRuntimeBackend

    return OnnxRuntimeBackend


def device_kind(device: str) -> str:
    """`cpu` or `cuda`.

    Args:
        device: `cpu`, `cuda` or `cuda:N`.

    Raises:
        BackendError: it is none of these.
    """
    kind, _, index = device.partition(":")
    if device != "cpu" and not (kind == "cuda" and (index or "0").isdecimal()):
        raise BackendError(f"unknown device {device!r}; use cpu, cuda or cuda:N")
    return kind


def _has_engine(bundle: Bundle, graph: GraphChoice) -> bool:
    """Whether one is stored, for whatever machine: a look into a folder, without TensorRT."""
    return any(engines_of(bundle, name) for name in meant(graph, tuple(GRAPHS)))


def meant(graph: GraphChoice, every: Sequence[GraphName]) -> Sequence[GraphName]:
    """Which of these a choice leaves open."""
    if graph == "auto":
        return every
    return [name for name in every if name in FP32_GRAPHS] if graph == "fp32" else (graph,)
