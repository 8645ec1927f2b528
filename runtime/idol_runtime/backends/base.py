"""What a backend is, and how one is chosen."""

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from idol_runtime.bundle import Bundle
from idol_runtime.detection import NetworkOutput
from idol_runtime.errors import ConfigError

__all__ = ["BACKENDS", "Backend", "open_backend"]

BACKENDS = ("onnxruntime",)


class Backend(Protocol):
    """Runs the network on resized frames.

    Attributes:
        name: which engine, and where: `onnxruntime (cpu)`.
        network_size: (h, w) of the frames it takes; None: any.
    """

    @property
    def name(self) -> str: ...

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
    bundle: Bundle, backend: str = "auto", device: str = "cpu", threads: int | None = None
) -> Backend:
    """Load the bundle's graph into an inference engine.

    Args:
        bundle: where the graph is.
        backend: one of `BACKENDS`, or `auto`.
        device: `cpu`, or `cuda` or `cuda:N` where the engine has it.
        threads: for the CPU; None: as many as the engine likes.

    Raises:
        ConfigError: no such backend.
        MissingDependencyError: its package is not installed.
        BackendError: it refuses the graph or the device.
    """
    if backend not in ("auto", *BACKENDS):
        raise ConfigError(f"unknown backend {backend!r}; choose one of: auto, {', '.join(BACKENDS)}")
    from idol_runtime.backends.onnxruntime import OnnxRuntimeBackend

    return OnnxRuntimeBackend.from_bundle(bundle, device=device, threads=threads)
