"""What a backend is, and how one is chosen."""

from typing import Literal, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from idol_runtime.bundle import GRAPHS, Bundle, GraphName
from idol_runtime.detection import NetworkOutput
from idol_runtime.errors import ConfigError

__all__ = ["BACKENDS", "Backend", "GraphChoice", "open_backend"]

BACKENDS = ("onnxruntime",)
GraphChoice: TypeAlias = GraphName | Literal["auto"]


class Backend(Protocol):
    """Runs the network on resized frames.

    Attributes:
        name: which engine, where, and which of the bundle's graphs: `onnxruntime (cpu, plugin graph)`.
        graph: the last alone; None for what is of no bundle.
        remark: why it is this graph, and how a faster one could be had; empty where there was nothing to choose.
        network_size: (h, w) of the frames it takes; None: any.
    """

    @property
    def name(self) -> str: ...

    @property
    def graph(self) -> GraphName | None: ...

    @property
    def remark(self) -> str: ...

    @property
    def network_size(self) -> tuple[int, int] | None: ...

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
    device: str = "cpu",
    threads: int | None = None,
    graph: GraphChoice = "auto",
) -> Backend:
    """Load the bundle's graph into an inference engine.

    Args:
        bundle: where the graph is.
        backend: one of `BACKENDS`, or `auto`.
        device: `cpu`, or `cuda` or `cuda:N` where the engine has it.
        threads: for the CPU; None: as many as the engine likes.
        graph: which of the bundle's; `auto`: the fastest that was verified and that the engine has what it takes for.

    Raises:
        ConfigError: no such backend, or no such graph.
        MissingDependencyError: its package is not installed.
        BackendError: it refuses the graph or the device.
    """
    if backend not in ("auto", *BACKENDS):
        raise ConfigError(f"unknown backend {backend!r}; choose one of: auto, {', '.join(BACKENDS)}")
    if graph not in ("auto", *GRAPHS):
        raise ConfigError(f"unknown graph {graph!r}; choose one of: auto, {', '.join(GRAPHS)}")
    from idol_runtime.backends.onnxruntime import OnnxRuntimeBackend

    return OnnxRuntimeBackend.from_bundle(bundle, device=device, threads=threads, graph=graph)
