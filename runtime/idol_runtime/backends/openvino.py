"""OpenVINO on a CPU, for the benchmark only."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from idol_runtime.backends.base import BatchLimit, ImageBatch, OpenOptions, split_batch
from idol_runtime.bundle.bundle import OUTPUT_NAMES, Bundle, GraphName
from idol_runtime.bundle.certificates import Engine, ReducedName
from idol_runtime.errors import BackendError
from idol_runtime.optional import import_optional
from idol_runtime.tracking.detection import NetworkOutput

__all__ = ["OpenVinoBackend"]


class OpenVinoBackend:
    """The portable graph in OpenVINO, in fp32 and one frame at a time."""

    engine: ClassVar[Engine] = "openvino"
    title: ClassVar = "OpenVINO"
    devices: ClassVar[tuple[str, ...]] = ("cpu",)
    fp32_graphs: ClassVar[tuple[GraphName, ...]] = ("portable",)
    timed: ClassVar[Mapping[str, tuple[ReducedName, ...]] | None] = {"cpu": ()}

    name = "openvino (cpu, portable graph)"
    graph: GraphName | None = "portable"
    reason = ""
    batch = BatchLimit(1, "frames are timed one at a time")

    def __init__(self, graph: bytes, network_size: tuple[int, int], threads: int | None = None) -> None:
        """Compile a graph.

        Raises:
            BackendError: OpenVINO is not installed, or refuses the graph.
        """
        openvino = import_optional("openvino", "openvino", "openvino", "the OpenVINO backend")
        self.network_size: tuple[int, int] | None = network_size
        settings = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
        if threads is not None:
            settings["INFERENCE_NUM_THREADS"] = str(threads)
        core = openvino.Core()
        try:
            self._compiled: Any = core.compile_model(core.read_model(graph, b""), "CPU", settings)
        except Exception as error:
            raise BackendError(f"OpenVINO refuses the graph: {str(error).splitlines()[0]}") from error

    @classmethod
    def available_devices(cls) -> Sequence[str]:
        """Return the CPU; see `BundleBackend`."""
        import_optional("openvino", "openvino", "openvino", "the OpenVINO backend")
        return ("cpu",)

    @classmethod
    def from_bundle(cls, bundle: Bundle, graph: GraphName, options: OpenOptions) -> "OpenVinoBackend":
        """Load a graph of a bundle; see `BundleBackend`."""
        return cls(bundle.graph(graph), bundle.manifest.network_size, options.threads)

    def infer(self, images: ImageBatch) -> list[NetworkOutput]:
        """Run the network and return one output per frame."""
        results = self._compiled({"image": images})
        return split_batch({name: np.asarray(results[name]) for name in OUTPUT_NAMES})

    def close(self) -> None:
        """Release the compiled network."""
        self._compiled = None
