"""Graphs to certify, and the limits of their errors; without PyTorch."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from idol_runtime.backends import Backend
from idol_runtime.backends.onnxruntime import OnnxRuntimeBackend, open_session
from idol_runtime.bundle.certificates import GraphName, Precision
from idol_runtime.pipeline import GOLDEN_TOLERANCE

__all__ = [
    "ID_LIMIT",
    "STAGE_LIMITS",
    "Candidate",
    "Runnable",
    "finite_error",
    "golden_tolerances",
    "relative_error",
]

ID_LIMIT = 0.99  # lowest IDF1 of a reduced-precision graph's tracks against those of fp32, 0 to 1
# Largest relative errors of a stage or output. They only find broken graphs; coarse ones fail by their tracks.
STAGE_LIMITS: Mapping[Precision, float] = {"fp16": 0.02, "bf16": 0.1, "int8": 0.3}
_GOLDEN_MARGIN = 2.0  # processors round differently; a wrong kernel's error is far larger
_GOLDEN_LIMIT = 0.9  # outputs of zeros have an error of 1
_INFINITE = 1e9  # in place of infinity, which JSON lacks


def relative_error(ours: NDArray[np.generic], expected: NDArray[np.generic]) -> float:
    """Return ‖ours - expected‖ / ‖expected‖ in float64; infinity if shapes differ or a value is not finite."""
    if ours.shape != expected.shape:
        return float("inf")
    a, b = ours.astype(np.float64), expected.astype(np.float64)
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        return float("inf")
    return float(np.linalg.norm(a - b) / max(float(np.linalg.norm(b)), 1e-12))


def finite_error(ours: NDArray[np.generic], expected: NDArray[np.generic]) -> float:
    """Return `relative_error` for a certificate: 1e9 in place of infinity."""
    return min(relative_error(ours, expected), _INFINITE)


def golden_tolerances(errors: Mapping[str, float]) -> dict[str, float]:
    """Return the tolerance of each output on the golden frame: a multiple of the error measured here."""
    return {
        name: min(max(GOLDEN_TOLERANCE, _GOLDEN_MARGIN * error), _GOLDEN_LIMIT)
        for name, error in errors.items()
    }


class Runnable(Protocol):
    """A graph whose tracks can be compared.

    Attributes:
        name: name of the graph in the bundle.
    """

    @property
    def name(self) -> GraphName:
        """See the class."""

    def open_backend(self, network_size: tuple[int, int]) -> Backend:
        """Open the graph in its engine.

        Args:
            network_size: (h, w) of the network input before padding.
        """


@dataclass(frozen=True)
class Candidate:
    """A graph to be certified, run by ONNX Runtime on the CPU.

    Attributes:
        name: name of the graph in the bundle.
        probe: ONNX file of the graph with the stages as additional outputs.
        graph: ONNX file of the graph as shipped; identities are compared on its outputs.
        libraries: libraries of operators that are not part of ONNX Runtime.
        integers: compute quantized nodes in integers; False: in fp32, where no sum can overflow.
    """

    name: GraphName
    probe: bytes
    graph: bytes
    libraries: tuple[Path, ...] = ()
    integers: bool = True

    def open_probe(self) -> Any:
        """Open an ONNX Runtime session of the probe."""
        return open_session(self.probe, libraries=self.libraries, integers=self.integers)

    def open_graph(self) -> Any:
        """Open an ONNX Runtime session of the graph."""
        return open_session(self.graph, libraries=self.libraries, integers=self.integers)

    def open_backend(self, network_size: tuple[int, int]) -> Backend:
        """Open a backend of the graph in ONNX Runtime; see `Runnable`."""
        return OnnxRuntimeBackend(self.open_graph(), self.name, network_size)
