"""The options and the rows of the benchmark; a row is one way to run a bundle's network, in its own process."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from idol_runtime.backends.base import Backend, OpenOptions, check_threads, device_kind
from idol_runtime.backends.choice import open_backend
from idol_runtime.backends.opening import BACKENDS, backend_class
from idol_runtime.bundle.bundle import Bundle
from idol_runtime.bundle.certificates import GraphName
from idol_runtime.errors import ConfigError

__all__ = ["BenchOptions", "BenchRow", "bundle_rows"]


@dataclass(frozen=True)
class BenchOptions:
    """Options of a benchmark.

    Attributes:
        source: source of the frames; None: the golden frame, shifted by some pixels per frame.
        frames: number of timed frames of each row.
        warmup: number of frames of each row before these.
        threads: number of CPU threads of each row; None: the engine's default.
        device: `cpu`, `cuda`, `cuda:N`, `gpu`, `gpu:N` or `npu`.
        fit: letterbox frames of other shapes than the network's.
    """

    source: str | None = None
    frames: int = 50
    warmup: int = 3
    threads: int | None = None
    device: str = "cpu"
    fit: bool = False

    def __post_init__(self) -> None:
        if self.frames < 1:
            raise ConfigError(f"frames must be at least 1, got {self.frames}")
        if self.warmup < 0:
            raise ConfigError(f"warmup must be 0 or more, got {self.warmup}")
        check_threads(self.threads)


@dataclass(frozen=True)
class BenchRow:
    """One way to run the network.

    Attributes:
        name: name in the tables.
        open: function that opens the backend. It must be picklable, because a new process calls it.
        precision: precision of the arithmetic.
        tolerance_share: largest share of its tolerance that a stage used when the bundle was verified; None: the
            bundle's certificates do not cover this row.
        id_agreement: IDF1 of a reduced-precision graph's tracks against the fp32 graph's; None for fp32.
        tolerances: largest error of each output on the golden frame; None: that of fp32.
        required: raise an error if the row cannot be opened; False: leave it out.
    """

    name: str
    open: Callable[[], Backend]
    precision: str = "fp32"
    tolerance_share: float | None = None
    id_agreement: float | None = None
    tolerances: Mapping[str, float] | None = None
    required: bool = False


def bundle_rows(path: str | Path, device: str = "cpu", threads: int | None = None) -> list[BenchRow]:
    """Return a row for every graph of a bundle in every backend that runs it on the device.

    Opening a row may still fail: its engine may not be installed, or its graph may not be verified.

    Args:
        path: path of the bundle.
        device: `cpu`, `cuda`, `cuda:N`, `gpu`, `gpu:N` or `npu`.
        threads: number of CPU threads of each row; None: the engine's default.

    Raises:
        BundleError: the bundle is broken.
        BackendError: the device is unknown.
    """
    kind = device_kind(device)
    with Bundle.open(path) as bundle:  # descriptions stay readable after it is closed
        manifest, certificates = bundle.manifest, bundle.certificates
    rows = []
    for backend in BACKENDS:
        runs = backend_class(backend)
        if kind not in runs.devices:
            continue

        def opener(graph: GraphName, backend: str = backend) -> Callable[[], Backend]:
            return partial(_open_row, str(path), OpenOptions(backend, device, threads, graph))

        for graph, fp32 in certificates.by_graph().items():
            if graph in runs.fp32_graphs:
                rows.append(
                    BenchRow(f"{backend}, {graph}", opener(graph), manifest.precision, fp32.tolerance_share)
                )
        for name, info in manifest.precisions.items():
            if runs.engine in info.engines:
                row = BenchRow(f"{backend}, {name}", opener(name), info.precision)
                reduced = bundle.certificate(name, runs.engine)
                if reduced is not None:
                    row = replace(
                        row,
                        tolerance_share=reduced.tolerance_share,
                        id_agreement=reduced.agreement.idf1,
                        tolerances=reduced.golden_tolerances,
                    )
                rows.append(row)
    return rows


def _open_row(path: str, options: OpenOptions) -> Backend:
    with Bundle.open(path) as bundle:
        return open_backend(bundle, options)
