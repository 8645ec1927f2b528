"""ONNX Runtime, on a CPU or through CUDA."""

import importlib.metadata
import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from idol_plugins.errors import PluginError
from idol_plugins.ort import ort_library, serves_cuda
from idol_runtime.backends.base import FP32_GRAPHS, BatchLimit, GraphChoice, check_threads, device_kind
from idol_runtime.backends.choice import fastest, require_graph, verified_graphs
from idol_runtime.bundle.bundle import OUTPUT_NAMES, Bundle, GraphName
from idol_runtime.bundle.certificates import ReducedName
from idol_runtime.errors import BackendError, MissingDependencyError
from idol_runtime.tracking.detection import NetworkOutput

__all__ = ["DISABLED_OPTIMIZERS", "OnnxRuntimeBackend", "import_onnxruntime", "open_session", "run_session"]

_DISTRIBUTIONS = ("onnxruntime", "onnxruntime-gpu")
# Of the graphs of fewer bits, what a device may gain from.
_WORTHWHILE: Mapping[str, tuple[ReducedName, ...]] = {"cpu": ("int8-ort",), "cuda": ("fp16",)}
_QUIET = 3  # errors only: warnings about constant folding are of no use to anyone here
# What it would make of a graph, and shall not:
DISABLED_OPTIMIZERS = [
    # A convolution left in fp32 between two in integers gets weights of 8 bits, one scale for all channels: a network
    # whose depthwise convolutions are kept is worse for it than one that keeps none.
    "WeightBiasQuantization",
    # An addition and a norm in one take six times as long as one after the other, a twentieth to a tenth of a frame.
    "SkipLayerNormFusion",
]
# Its threads wait for work without rest. They shall not do so between frames, on cores that masks are decoded on.
_SETTINGS = {"session.force_spinning_stop": "1"}


def import_onnxruntime() -> types.ModuleType:
    """ONNX Runtime, if exactly one distribution of it is installed.

    Raises:
        MissingDependencyError: none is.
        BackendError: both are; they overwrite each other's files.
    """
    installed = [name for name in _DISTRIBUTIONS if _is_installed(name)]
    if len(installed) > 1:
        raise BackendError(
            "onnxruntime and onnxruntime-gpu are both installed and overwrite each other; keep one: "
            "pip uninstall onnxruntime onnxruntime-gpu, then pip install 'idol-deploy[cpu]' or "
            "'idol-deploy[gpu]'"
        )
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingDependencyError("onnxruntime", "cpu", "running the network") from error
    return onnxruntime  # type: ignore[no-any-return, unused-ignore]


def _is_installed(distribution: str) -> bool:
    try:
        importlib.metadata.distribution(distribution)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def open_session(
    graph: bytes,
    device: str = "cpu",
    threads: int | None = None,
    libraries: Sequence[Path] = (),
    *,
    integers: bool = True,
) -> Any:
    """An `onnxruntime.InferenceSession` on exactly the device asked for; it never falls back to another.

    Args:
        graph: an ONNX file.
        device: `cpu`, `cuda` or `cuda:N`.
        threads: for one operator; None: as many as ONNX Runtime likes.
        libraries: of operators that are not ONNX Runtime's own; `idol_plugins.ort.ort_library()`.
        integers: compute in them what stands between values that are rounded to integers, not in fp32. On processors
            without dot-product instructions sums of products may then overflow, unless weights were chosen for that.

    Raises:
        ConfigError: a number of threads that cannot be.
        MissingDependencyError: ONNX Runtime is not installed.
        BackendError: the device is not there, or the graph is refused.
    """
    check_threads(threads)
    runtime = import_onnxruntime()
    options = runtime.SessionOptions()
    options.log_severity_level = _QUIET
    if threads is not None:
        options.intra_op_num_threads = threads
    for name, value in {**_SETTINGS, "session.disable_quant_qdq": "0" if integers else "1"}.items():
        options.add_session_config_entry(name, value)
    providers = _providers(runtime, device)
    for library in libraries:
        _register(options, library)
    try:
        session = runtime.InferenceSession(
            graph, options, providers=providers, disabled_optimizers=DISABLED_OPTIMIZERS
        )
    except Exception as error:
        raise BackendError(
            f"ONNX Runtime {runtime.__version__} refuses the graph: {_first_line(error)}"
        ) from error
    if session.get_providers()[0] != _provider_name(providers[0]):
        raise BackendError(f"ONNX Runtime could not start on {device}; check its driver, or use --device cpu")
    return session


def _register(options: Any, library: Path) -> None:
    try:
        options.register_custom_ops_library(str(library))
    except Exception as error:
        raise BackendError(
            f"ONNX Runtime cannot load {library}: {_first_line(error)}; build it again: idol-deploy plugins build"
        ) from error


def _providers(runtime: types.ModuleType, device: str) -> list[str | tuple[str, dict[str, str]]]:
    if device_kind(device) == "cpu":
        return ["CPUExecutionProvider"]
    if "CUDAExecutionProvider" not in runtime.get_available_providers():
        raise BackendError(
            "this ONNX Runtime has no CUDA; replace it: pip uninstall onnxruntime, then "
            "pip install 'idol-deploy[gpu]'"
        )
    index = device.partition(":")[2] or "0"
    return [("CUDAExecutionProvider", {"device_id": index}), "CPUExecutionProvider"]


def _provider_name(provider: str | tuple[str, dict[str, str]]) -> str:
    return provider if isinstance(provider, str) else provider[0]


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n", 1)[0][:300]


def run_session(
    session: Any,
    names: Sequence[str],
    images: NDArray[np.uint8],  # [N, h, w, 3]
) -> Mapping[str, NDArray[np.float32]]:
    """Named outputs of the graph for these frames.

    Raises:
        BackendError: ONNX Runtime failed; out of memory, for instance.
    """
    try:
        outputs = session.run(list(names), {"image": images})
    except Exception as error:
        raise BackendError(f"ONNX Runtime failed: {_first_line(error)}") from error
    return dict(zip(names, outputs, strict=True))


def _operator(bundle: Bundle, device: str) -> tuple[Path]:
    """The operator's library, for a bundle and a device that can use it."""
    if bundle.certificates.plugin is None:
        raise BackendError(
            "the bundle has no graph with our operator; export it again after: idol-deploy plugins build"
        )
    library = ort_library()
    if device != "cpu" and not serves_cuda(library):
        raise BackendError(
            f"{library} is built for CPUs alone; build it again: idol-deploy plugins build --cuda"
        )
    return (library,)


def _batch_limit(dynamic: bool, graph: GraphName) -> BatchLimit:
    if not dynamic:
        return BatchLimit(1, "the bundle's graphs take one frame at a time; export it with --dynamic-batch")
    if graph == "int8-ort":
        # One range for all: a stream's result would hang on what the others show.
        return BatchLimit(
            1, "int8-ort finds its ranges as it runs, over all frames at once; use --graph plugin"
        )
    return BatchLimit()


class OnnxRuntimeBackend:
    """One of the bundle's graphs in an ONNX Runtime session."""

    targets = ("onnx", "ort")
    devices = ("cpu", "cuda")

    def __init__(
        self,
        session: Any,
        name: str,
        network_size: tuple[int, int] | None,
        reason: str = "",
        graph: GraphName = "portable",
        batch: BatchLimit | None = None,
    ) -> None:
        self._session = session
        self._name = name
        self._network_size = network_size
        self._reason = reason
        self._graph = graph
        self._batch = batch or BatchLimit()

    @classmethod
    def from_bundle(
        cls,
        bundle: Bundle,
        device: str = "cpu",
        threads: int | None = None,
        graph: GraphChoice = "auto",
        reason: str = "",
    ) -> "OnnxRuntimeBackend":
        """Load a graph, and check that it has the inputs and outputs that the manifest names.

        Args:
            bundle: where the graphs are.
            device: `cpu`, `cuda` or `cuda:N`.
            threads: for one operator; None: as many as ONNX Runtime likes.
            graph: which; `fp32`: `plugin` where it is there and its operator can be loaded, else `portable`; `auto`:
                the fastest of this and of the verified graphs of fewer bits, timed on the golden frame; those with
                the operator only beside `plugin`.
            reason: why it is not a faster backend.

        Raises:
            PluginError: the operator's library was asked for, and is not built.
            BackendError: it does not have them, the graph or the device is refused, or the bundle lacks the graph.
        """
        if graph not in ("auto", "fp32", *FP32_GRAPHS):
            return cls._open_reduced(bundle, cast(ReducedName, graph), device, threads)
        exact = cls._open_exact(bundle, device, threads, graph, reason)
        if graph != "auto":
            return exact
        faster, reasons = [], []
        for name in verified_graphs(bundle, cls.targets):
            operator = bundle.manifest.precisions[name].operator
            if name in _WORTHWHILE[device_kind(device)] and (exact.graph == "plugin" or not operator):
                try:
                    faster.append(cls._open_reduced(bundle, name, device, threads))
                except (PluginError, BackendError) as error:
                    reasons.append(f"the {name} graph is left out: {error}")
        chosen = exact
        if faster:
            chosen, why = fastest(exact, faster, bundle)
            reasons.append(why)
        chosen._reason = "; ".join(filter(None, (chosen.reason or reason, *reasons)))
        return chosen

    @classmethod
    def _open_exact(
        cls, bundle: Bundle, device: str, threads: int | None, graph: GraphChoice, reason: str
    ) -> "OnnxRuntimeBackend":
        if graph != "portable":
            try:
                return cls._open(bundle, "plugin", device, threads, _operator(bundle, device), reason)
            except (PluginError, BackendError) as error:
                if graph == "plugin":
                    raise
                slower = f"this is the portable graph, which is slower: {error}"
                reason = f"{reason}; and {slower}" if reason else slower
        return cls._open(bundle, "portable", device, threads, (), reason)

    @classmethod
    def _open_reduced(
        cls, bundle: Bundle, graph: ReducedName, device: str, threads: int | None
    ) -> "OnnxRuntimeBackend":
        info = require_graph(bundle, graph, cls.targets, "onnxruntime")
        libraries = _operator(bundle, device) if info.operator else ()
        return cls._open(bundle, graph, device, threads, libraries)

    @classmethod
    def _open(
        cls,
        bundle: Bundle,
        graph: GraphName,
        device: str,
        threads: int | None,
        libraries: Sequence[Path],
        reason: str = "",
    ) -> "OnnxRuntimeBackend":
        session = open_session(bundle.graph(graph), device, threads, libraries)
        found = [tensor.name for tensor in (*session.get_inputs(), *session.get_outputs())]
        promised = [tensor.name for tensor in (*bundle.manifest.inputs, *bundle.manifest.outputs)]
        if found != promised or not set(OUTPUT_NAMES) <= set(found):
            raise BackendError(f"{bundle.path}: the graph has {found}, its manifest promises {promised}")
        name = f"onnxruntime ({device}, {graph} graph)"
        manifest = bundle.manifest
        limit = _batch_limit(manifest.dynamic_batch, graph)
        return cls(session, name, manifest.network_size, reason, graph, limit)

    @property
    def name(self) -> str:
        """Engine, device and graph."""
        return self._name

    @property
    def graph(self) -> GraphName:
        """Which of the bundle's."""
        return self._graph

    @property
    def reason(self) -> str:
        """Why it is this graph, where that needs saying."""
        return self._reason

    @property
    def network_size(self) -> tuple[int, int] | None:
        """(h, w) of the frames it takes."""
        return self._network_size

    @property
    def batch(self) -> BatchLimit:
        """How many of them at once."""
        return self._batch

    def infer(
        self,
        images: NDArray[np.uint8],  # [N, h, w, 3]
    ) -> list[NetworkOutput]:
        """Run the network; one output per frame."""
        outputs = run_session(self._session, OUTPUT_NAMES, images)
        return [
            NetworkOutput(**{name: values[i] for name, values in outputs.items()}) for i in range(len(images))
        ]

    def close(self) -> None:
        """Release the session."""
        self._session = None
