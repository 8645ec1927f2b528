"""What is compared: a row is a way to run a bundle's network, opened in a process of its own.

The runtime knows the rows of a bundle's graphs; whoever knows others, such as PyTorch's, appends them.
"""

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from idol_runtime.backends import Backend, open_backend
from idol_runtime.backends.base import BACKENDS, BatchLimit, backend_class, device_kind
from idol_runtime.bundle.bundle import OUTPUT_NAMES, Bundle
from idol_runtime.bundle.certificates import Certificate, GraphName, PrecisionCertificate
from idol_runtime.errors import BackendError
from idol_runtime.tracking.detection import NetworkOutput

__all__ = ["OpenVinoBackend", "Row", "bundle_rows"]


@dataclass(frozen=True)
class Row:
    """One way to run the network.

    Attributes:
        name: as the tables call it.
        open: opens it; called in a new process, so that it must be picklable: a partial of a module's function.
        precision: of its arithmetic.
        parity: the largest share of its tolerance that any stage used when the bundle was verified; None: it was not
            verified with the bundle.
        id_agreement: of a graph of fewer bits, IDF1 of its tracks against those of fp32.
        tolerances: how far each output may be off on the golden frame; None: as far as those of fp32.
        required: was asked for by name, so that it is an error, and no note, if it cannot be opened.
    """

    name: str
    open: Callable[[], Backend]
    precision: str = "fp32"
    parity: float | None = None
    id_agreement: float | None = None
    tolerances: Mapping[str, float] | None = None
    required: bool = False


def bundle_rows(path: str | Path, device: str = "cpu", threads: int | None = None) -> list[Row]:
    """A row for every graph of a bundle in every backend that reads it on such a device, and for OpenVINO on a CPU.

    Whether each can be opened turns out when it is: an engine may not be installed, a graph not be verified.

    Args:
        path: of the bundle.
        device: `cpu`, `cuda` or `cuda:N`.
        threads: CPU threads of each.

    Raises:
        BundleError: the bundle is broken.
        BackendError: there is no such device.
    """
    kind = device_kind(device)
    with Bundle.open(path) as bundle:
        manifest, parity = bundle.manifest, bundle.certificates
    graphs: dict[
        GraphName, tuple[str, str, Certificate | PrecisionCertificate, Mapping[str, float] | None]
    ] = {
        name: ("onnx", manifest.precision, certificate, None)
        for name, certificate in parity.by_graph().items()
    }
    for name, info in manifest.precisions.items():
        graphs[name] = info.target, info.precision, parity.precisions[name], info.golden_tolerances
    rows = [
        Row(
            f"{backend}, {graph}",
            partial(_open_graph, str(path), backend, device, threads, graph),
            precision,
            max((s.error / s.tolerance for s in certificate.stages if s.tolerance), default=0.0),
            certificate.agreement.idf1 if isinstance(certificate, PrecisionCertificate) else None,
            tolerances,
        )
        for backend, runs in ((name, backend_class(name)) for name in BACKENDS)
        if kind in runs.devices
        for graph, (target, precision, certificate, tolerances) in graphs.items()
        if target in runs.targets
    ]
    if kind == "cpu":
        rows.append(Row("openvino, portable", partial(OpenVinoBackend.from_bundle, str(path), threads)))
    return rows


def _open_graph(path: str, backend: str, device: str, threads: int | None, graph: GraphName) -> Backend:
    with Bundle.open(path) as bundle:
        return open_backend(bundle, backend, device, threads, graph)


def _import_openvino() -> Any:
    try:
        return importlib.import_module("openvino")
    except ImportError as error:
        raise BackendError(
            "OpenVINO is not installed; to measure it as well: pip install openvino"
        ) from error


class OpenVinoBackend:
    """The portable graph in OpenVINO on a CPU: measured beside the others, and no backend of `run`."""

    name = "openvino (cpu, portable graph)"
    graph: GraphName | None = "portable"
    reason = ""
    batch = BatchLimit(1, "frames are timed one at a time")

    def __init__(self, graph: bytes, network_size: tuple[int, int], threads: int | None) -> None:
        """Compile a graph for single frames, in fp32.

        Raises:
            BackendError: OpenVINO is not installed, or refuses it.
        """
        openvino = _import_openvino()
        self.network_size = network_size
        settings = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
        if threads is not None:
            settings["INFERENCE_NUM_THREADS"] = str(threads)
        core = openvino.Core()
        try:
            self._compiled = core.compile_model(core.read_model(graph, b""), "CPU", settings)
        except Exception as error:
            raise BackendError(f"OpenVINO refuses the graph: {str(error).splitlines()[0]}") from error

    @classmethod
    def from_bundle(cls, path: str, threads: int | None) -> "OpenVinoBackend":
        """Of a bundle's portable graph."""
        with Bundle.open(path) as bundle:
            return cls(bundle.graph("portable"), bundle.manifest.network_size, threads)

    def infer(
        self,
        images: NDArray[np.uint8],  # [N, h, w, 3]
    ) -> list[NetworkOutput]:
        """Run the network; one output per frame."""
        found = self._compiled({"image": images})
        outputs = {name: np.asarray(found[name]) for name in OUTPUT_NAMES}
        return [
            NetworkOutput(**{name: array[i] for name, array in outputs.items()}) for i in range(len(images))
        ]

    def close(self) -> None:
        """Let the compiled network go."""
        self._compiled = None
