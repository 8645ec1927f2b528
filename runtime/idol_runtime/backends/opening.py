"""The registry of backends, and the choice of a backend and a graph.

Adding a backend takes one entry in `BACKENDS` and the module that it names.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from importlib import import_module
from typing import cast

import numpy as np

from idol_plugins.errors import PluginError
from idol_runtime.backends.base import BundleBackend, OpenOptions, device_kind
from idol_runtime.bundle.bundle import GRAPHS, Bundle, GraphName
from idol_runtime.bundle.certificates import Engine, ReducedName
from idol_runtime.bundle.engine_file import engines_of
from idol_runtime.errors import BackendError, ConfigError, IdolError
from idol_runtime.preprocess import resize
from idol_runtime.timing import interleaved

__all__ = [
    "BACKENDS",
    "BENCH_ONLY",
    "backend_class",
    "open_backend",
    "open_named",
    "require_graph",
    "verified_graphs",
]


# Module and class of each backend; the classes are `BundleBackend`s. In the order of the benchmark's rows; `auto` tries
# them from the last, the fastest, to the first.
BACKENDS: Mapping[str, str] = {
    "onnxruntime": "idol_runtime.backends.onnxruntime:OnnxRuntimeBackend",
    "tensorrt": "idol_runtime.backends.tensorrt:TensorRTBackend",
    "openvino": "idol_runtime.backends.openvino:OpenVinoBackend",
}
BENCH_ONLY = ("openvino",)  # not accepted by `run` and `Pipeline.open`
_SELECTABLE = tuple(name for name in BACKENDS if name not in BENCH_ONLY)
_MIN_ROUNDS, _MAX_ROUNDS, _BUDGET_MS = 3, 15, 1000.0


def backend_class(name: str) -> type[BundleBackend]:
    """Return the class of a registered backend; its inference engine need not be installed."""
    module, _, attribute = BACKENDS[name].partition(":")
    return cast(type[BundleBackend], getattr(import_module(module), attribute))


def open_backend(bundle: Bundle, options: OpenOptions | None = None) -> BundleBackend:
    """Load a graph of the bundle into an inference engine.

    Args:
        bundle: bundle of the graph.
        options: backend, device, threads and graph; None: the defaults.

    Raises:
        ConfigError: the backend is unknown.
        MissingDependencyError: the inference engine is not installed.
        PluginError: the plugin graph was asked for, and its library is not built.
        BackendError: the engine refuses the graph or the device, or the bundle lacks the graph.
    """
    options = options or OpenOptions()
    if options.backend in _SELECTABLE:
        return open_named(bundle, options)
    if options.backend != "auto":
        raise ConfigError(
            f"unknown backend {options.backend!r}; choose one of: {', '.join(('auto', *_SELECTABLE))}"
        )
    names = [name for name in reversed(_SELECTABLE) if _can_serve(name, bundle, options)]
    return _open_first(names, bundle, options)


def _open_first(names: Sequence[str], bundle: Bundle, options: OpenOptions) -> BundleBackend:
    """Open the first of the named backends that can be opened; the reason names the failures."""
    name, *slower = names
    try:
        return open_named(bundle, replace(options, backend=name))
    except IdolError as error:
        if not slower:
            raise
        backend = _open_first(slower, bundle, options)
        reason = f"not running {backend_class(name).title}, which is faster: {error}"
        backend.reason = _joined(reason, backend.reason)
        return backend


def open_named(bundle: Bundle, options: OpenOptions) -> BundleBackend:
    """Load a graph into the backend that `options` names, selectable or not; errors as in `open_backend`."""
    kind, graph = backend_class(options.backend), options.graph
    if options.device == "auto":
        options = replace(options, device=kind.devices[0])
    elif device_kind(options.device) not in kind.devices:
        devices = {"cpu": "cpu", "cuda": "cuda or cuda:N"}[kind.devices[0]]
        raise BackendError(
            f"{kind.title} does not run on {options.device}; use --device {devices}, or leave out --backend"
        )
    if graph != "auto" and graph != "fp32":
        require_graph(bundle, graph, kind)
        return kind.from_bundle(bundle, (graph,), options)
    reduced = verified_graphs(bundle, kind.engine) if graph == "auto" else []
    if kind.timed is None:
        return kind.from_bundle(bundle, (*kind.fp32_graphs, *reduced), options)
    exact = kind.from_bundle(bundle, kind.fp32_graphs, options)
    timed = kind.timed[device_kind(options.device)]
    return _fastest(exact, [name for name in reduced if name in timed], bundle, options)


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
    if graph in kind.fp32_graphs:
        return
    info = bundle.manifest.precisions.get(cast(ReducedName, graph))
    if info is None:
        precision, _, target = graph.partition("-")
        option = f"--precision {precision}" + (f" --target {target}" if target else "")
        raise BackendError(f"the bundle has no {graph} graph; export it with {option}")
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


def _can_serve(name: str, bundle: Bundle, options: OpenOptions) -> bool:
    """Return whether a backend is worth trying: the device fits, and any engine that it needs is stored."""
    kind = backend_class(name)
    if options.device != "auto" and device_kind(options.device) not in kind.devices:
        return False
    if options.graph == "auto" or options.graph == "fp32":
        graphs = tuple(GRAPHS) if options.graph == "auto" else kind.fp32_graphs
    else:
        graphs = (options.graph,)
    return kind.timed is not None or any(engines_of(bundle, graph) for graph in graphs)


def _fastest(
    exact: BundleBackend, names: Sequence[ReducedName], bundle: Bundle, options: OpenOptions
) -> BundleBackend:
    """Time reduced-precision graphs against fp32 on the golden frame; return the fastest and close the others.

    fp32 stays unless another graph is at least 1.1 times as fast.
    """
    backends, reasons = [exact], []
    for name in names:
        if exact.graph != "plugin" and bundle.manifest.precisions[name].operator:
            continue  # the operator's library could not be loaded for fp32 either
        try:
            backends.append(type(exact).from_bundle(bundle, (name,), options))
        except (PluginError, BackendError) as error:
            reasons.append(f"the {name} graph cannot be used: {error}")
    if not backends[1:]:
        exact.reason = _joined(exact.reason, *reasons)
        return exact
    image = resize(bundle.golden_frame().frame, bundle.manifest.network_size)[None]
    runs = [partial(backend.infer, image) for backend in backends]
    times = interleaved(runs, _MIN_ROUNDS)
    more = min(_MAX_ROUNDS, int(_BUDGET_MS / np.median(times.sum(axis=1)))) - len(times)
    if more > 0:  # the times of a small network vary more than the gain
        times = np.concatenate([times, interleaved(runs, more, warmup=0)])
    gains = np.median(times[:, :1] / times[:, 1:], axis=0)
    gain, best = float(gains.max()), backends[1 + int(gains.argmax())]
    chosen = best if gain >= 1.1 else exact  # a smaller gain is within the noise of the timing
    if chosen is best:
        reasons.append(f"{best.graph} is {gain:.1f} times as fast as {exact.graph} on the golden frame")
    else:
        reasons.append(f"using fp32, since {best.graph} is hardly faster here ({gain:.2f} times)")
    for backend in backends:
        if backend is not chosen:
            backend.close()
    chosen.reason = _joined(chosen.reason, *reasons)
    return chosen


def _joined(*reasons: str) -> str:
    return "; ".join(filter(None, reasons))
