"""A backend that runs each frame once, for pipelines that differ in what they make of the network's outputs alone."""

import hashlib

import numpy as np
from numpy.typing import NDArray

from idol_runtime.backends import Backend
from idol_runtime.backends.base import BatchLimit
from idol_runtime.bundle.bundle import GraphName
from idol_runtime.tracking.detection import NetworkOutput

__all__ = ["CachingBackend"]


class CachingBackend:
    """Hands on what another backend found, and what it found before where the frame is the same to the last bit."""

    def __init__(self, backend: Backend, keep: int | None = None) -> None:
        """Remembers the outputs of the last `keep` frames; None: of all, some 100 kB each of an edge network."""
        self._backend = backend
        self._keep = keep
        self._found: dict[bytes, NetworkOutput] = {}

    @property
    def name(self) -> str:
        """The other's."""
        return self._backend.name

    @property
    def graph(self) -> GraphName | None:
        """The other's."""
        return self._backend.graph

    @property
    def reason(self) -> str:
        """The other's."""
        return self._backend.reason

    @property
    def network_size(self) -> tuple[int, int] | None:
        """The other's."""
        return self._backend.network_size

    @property
    def batch(self) -> BatchLimit:
        """The other's."""
        return self._backend.batch

    def infer(
        self,
        images: NDArray[np.uint8],  # [N, h, w, 3]
    ) -> list[NetworkOutput]:
        """One output per frame."""
        return [self._output(image) for image in images]

    def close(self) -> None:
        """Keeps what it holds: the next pipeline wants it."""

    def _output(self, image: NDArray[np.uint8]) -> NetworkOutput:
        key = _key(image)
        if key not in self._found:
            (self._found[key],) = self._backend.infer(image[None])
            if self._keep is not None and len(self._found) > self._keep:
                del self._found[next(iter(self._found))]  # the oldest
        return self._found[key]


def _key(image: NDArray[np.uint8]) -> bytes:
    return hashlib.sha256(repr(image.shape).encode() + image.tobytes()).digest()
