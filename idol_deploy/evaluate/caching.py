"""A backend that runs each frame once, for pipelines with one network and different post-processing."""

import hashlib

import numpy as np
from numpy.typing import NDArray

from idol_runtime.backends import Backend
from idol_runtime.backends.base import BatchLimit
from idol_runtime.bundle.bundle import GraphName
from idol_runtime.tracking.detection import NetworkOutput

__all__ = ["CachingBackend"]


class CachingBackend:
    """A backend that stores the outputs of another backend, by the exact pixels of the frame."""

    def __init__(self, backend: Backend, keep: int | None = None) -> None:
        """Wrap a backend.

        Args:
            backend: backend that runs the network; stays open.
            keep: number of the latest frames to store; None (default): all, about 100 kB each for an edge network.
        """
        self._backend = backend
        self._keep = keep
        self._outputs: dict[bytes, NetworkOutput] = {}

    @property
    def name(self) -> str:
        """Name of the wrapped backend."""
        return self._backend.name

    @property
    def graph(self) -> GraphName | None:
        """Graph of the wrapped backend."""
        return self._backend.graph

    @property
    def reason(self) -> str:
        """Reason for the choice of the wrapped backend."""
        return self._backend.reason

    @property
    def network_size(self) -> tuple[int, int] | None:
        """Input size of the wrapped backend."""
        return self._backend.network_size

    @property
    def batch(self) -> BatchLimit:
        """Batch limit of the wrapped backend."""
        return self._backend.batch

    def infer(
        self,
        images: NDArray[np.uint8],  # [N, h, w, 3]
    ) -> list[NetworkOutput]:
        """Return one output per frame."""
        return [self._output(image) for image in images]

    def close(self) -> None:
        """Do nothing: the outputs stay for the next pipeline."""

    def _output(self, image: NDArray[np.uint8]) -> NetworkOutput:
        key = hashlib.sha256(repr(image.shape).encode() + image.tobytes()).digest()
        if key not in self._outputs:
            (self._outputs[key],) = self._backend.infer(image[None])
            if self._keep is not None and len(self._outputs) > self._keep:
                del self._outputs[next(iter(self._outputs))]  # the oldest
        return self._outputs[key]
