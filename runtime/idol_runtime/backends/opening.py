"""The registry of backends, and the candidates of a bundle: its graphs in these backends on this machine's devices.

Adding a backend takes one entry in `BACKENDS` and the module that it names.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from typing import cast, get_args

from idol_runtime.backends.base import BundleBackend, GraphChoice, OpenOptions, device_kind
from idol_runtime.bundle.bundle import Bundle, GraphName
from idol_runtime.bundle.certificates import Engine, Fp32Name, ReducedName
from idol_runtime.bundle.engine_file import engines_of
from idol_runtime.errors import BackendError, ConfigError, IdolError

__all__ = [
    "BACKENDS",
    "Candidate",
    "backend_class",
    "list_candidates",
    "require_graph",
    "verified_graphs",
]


# Module and class of each backend; the classes are `BundleBackend`s. In the order of the benchmark's rows; a choice
# tries them from the last, usually the fastest, to the first.
BACKENDS: Mapping[str, str] = {
    "onnxruntime": "idol_runtime.backends.onnxruntime:OnnxRuntimeBackend",
    "openvino": "idol_runtime.backends.openvino:OpenVinoBackend",
    "tensorrt": "idol_runtime.backends.tensorrt:TensorRTBackend",
}


def backend_class(name: str) -> type[BundleBackend]:
    """Return the class of a registered backend; its inference engine need not be installed."""
    module, _, attribute = BACKENDS[name].partition(":")
    return cast(type[BundleBackend], getattr(import_module(module), attribute))


@dataclass
class Candidate:
    """A graph of a bundle in a backend on a device, and the result of trying it.

    Attributes:
        backend: name of the backend.
        device: device; that of all its graphs if the backend itself cannot be used.
        graph: name of the graph; None: every graph, because the backend cannot be used.
        why_not: why it is not used, and how to change that; empty if it may be used.
        error: error that prevents it from running; None: it may run, or needs not be tried.
        wrong: True if its outputs differ from PyTorch's.
        ms: time of the network on the golden frame: the chosen candidate's median, divided by `speed`; None: not timed.
        speed: how many times as fast as the chosen candidate, from interleaved frames; 0: not timed.
    """

    backend: str
    device: str
    graph: GraphName | None
    why_not: str = ""
    error: IdolError | None = None
    wrong: bool = False
    ms: float | None = None
    speed: float = 0.0

    @property
    def kind(self) -> type[BundleBackend]:
        """The class of the backend."""
        return backend_class(self.backend)

    @property
    def exact(self) -> bool:
        """True for an fp32 graph."""
        return self.graph in get_args(Fp32Name)

    def __str__(self) -> str:
        return f"{self.graph} on {self.kind.title}" if self.graph else self.kind.title

    def refuse(self, error: IdolError) -> None:
        """Store the error that prevents it from running."""
        self.why_not, self.error = str(error), error

    def open(self, bundle: Bundle, options: OpenOptions) -> BundleBackend:
        """Load the graph; errors as in `BundleBackend.from_bundle`."""
        assert self.graph is not None
        return self.kind.from_bundle(bundle, self.graph, replace(options, device=self.device))


def list_candidates(bundle: Bundle, options: OpenOptions) -> list[Candidate]:
    """Return the candidates of a bundle within the limits of the options, usually the fastest first.

    One that cannot run has the reason in `why_not`; others may still fail when they are opened.

    Raises:
        ConfigError: the backend is unknown.
        BackendError: the backend does not run on the device.
    """
    if options.backend not in ("auto", *BACKENDS):
        raise ConfigError(
            f"unknown backend {options.backend!r}; choose one of: {', '.join(('auto', *BACKENDS))}"
        )
    names = list(BACKENDS)[::-1] if options.backend == "auto" else [options.backend]
    if options.device != "auto":
        wanted = device_kind(options.device)
        fitting = [name for name in names if wanted in backend_class(name).devices]
        if not fitting:
            kind = backend_class(names[0])
            devices = {"cpu": "cpu", "cuda": "cuda or cuda:N"}[kind.devices[0]]
            raise BackendError(
                f"{kind.title} does not run on {options.device}; use --device {devices}, or leave out --backend"
            )
        names = fitting
    able = [name for name in names if _runs(backend_class(name), bundle, options.graph)]
    return [candidate for name in able or names for candidate in _of_backend(name, bundle, options)]


def _of_backend(name: str, bundle: Bundle, options: OpenOptions) -> Iterator[Candidate]:
    kind = backend_class(name)
    try:
        devices = kind.available_devices()
        graphs = _graphs(kind, bundle, options)
    except IdolError as error:
        candidate = Candidate(name, kind.devices[0] if options.device == "auto" else options.device, None)
        candidate.refuse(error)
        yield candidate
        return
    for device in devices if options.device == "auto" else (options.device,):
        timed = None if kind.timed is None else (*kind.timed[device_kind(device)], *kind.fp32_graphs)
        for graph in graphs:
            candidate = Candidate(name, device, graph)
            try:
                require_graph(bundle, graph, kind)
                if options.graph == "auto" and timed is not None and graph not in timed:
                    candidate.why_not = f"{kind.title} gains nothing by {graph} on this device"
            except BackendError as error:
                candidate.refuse(error)
            yield candidate


def _runs(kind: type[BundleBackend], bundle: Bundle, graph: GraphChoice) -> bool:
    """Return whether a backend is made for a graph of the bundle."""
    if graph in ("auto", "fp32", *get_args(Fp32Name)):
        return True
    info = bundle.manifest.precisions.get(cast(ReducedName, graph))
    return info is not None and kind.engine in info.engines


def _graphs(kind: type[BundleBackend], bundle: Bundle, options: OpenOptions) -> Sequence[GraphName]:
    """Return the graphs that the options allow, the reduced-precision ones first.

    Raises:
        BackendError: the backend needs a stored engine, and there is none.
    """
    if options.graph != "auto" and options.graph != "fp32":
        return (options.graph,)
    graphs = list(kind.fp32_graphs)
    if options.graph == "auto":
        reduced = bundle.manifest.precisions.items()
        graphs[:0] = [name for name, info in reduced if kind.engine in info.engines]
    if kind.timed is not None:
        return graphs
    stored = [graph for graph in graphs if engines_of(bundle, graph)]
    if not stored:
        raise BackendError(
            f"no engine of {bundle.path} is stored; build one: idol-deploy build {bundle.path}"
        )
    return stored


def verified_graphs(bundle: Bundle, engine: Engine) -> list[ReducedName]:
    """Return the reduced-precision graphs that an engine can run and that passed its checks on this processor."""
    certificates = {
        name: bundle.certificate(name, engine)
        for name, info in bundle.manifest.precisions.items()
        if engine in info.engines
    }
    return [name for name, certificate in certificates.items() if certificate and certificate.passed]


def require_graph(bundle: Bundle, graph: GraphName, kind: type[BundleBackend]) -> None:
    """Check that a backend may run a graph of the bundle.

    Raises:
        BackendError: the graph is missing, made for another engine, or not verified in this one on this processor.
    """
    if graph in get_args(Fp32Name):
        if graph not in bundle.certificates.by_graph():
            fix = " after: idol-deploy plugins build" if graph == "plugin" else ""
            raise BackendError(f"the bundle has no {graph} graph; export it again{fix}")
        return
    info = bundle.manifest.precisions.get(cast(ReducedName, graph))
    if info is None:
        precision, _, target = graph.partition("-")
        option = f"--precision {precision}" + (f" --target {target}" if target else "")
        fix = f"idol-deploy export --into {bundle.path} {option}"
        raise BackendError(f"the bundle has no {graph} graph; add it with: {fix}")
    if kind.engine not in info.engines:
        raise BackendError(
            f"{kind.title} does not run the {graph} graph, which is made for {info.made_for}; leave out --graph, or "
            "use --graph plugin"
        )
    certificate = bundle.certificate(graph, kind.engine)
    if certificate is None:
        raise BackendError(
            f"the {graph} graph is not verified in {kind.title} on this processor; verify it here: "
            f"idol-deploy certify {bundle.path}"
        )
    if certificate.failures:
        raise BackendError(
            f"the {graph} graph is not verified (failed: {', '.join(certificate.failures)}); use another graph, or "
            "export it again without --unverified"
        )
