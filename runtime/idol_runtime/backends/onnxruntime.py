"""ONNX Runtime on a CPU or a CUDA device."""

import importlib
import importlib.metadata
import importlib.util
import types
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, cast

import numpy as np
from numpy.typing import NDArray

from idol_plugins.ort import ort_library, serves_cuda
from idol_runtime.backends.base import (
    BatchLimit,
    ImageBatch,
    OpenOptions,
    check_threads,
    device_kind,
    split_batch,
)
from idol_runtime.bundle.bundle import OUTPUT_NAMES, Bundle, GraphName
from idol_runtime.bundle.certificates import Engine, ReducedName
from idol_runtime.errors import BackendError, MissingDependencyError
from idol_runtime.tracking.detection import NetworkOutput

__all__ = ["DISABLED_OPTIMIZERS", "OnnxRuntimeBackend", "import_onnxruntime", "open_session", "run_session"]

# Optimizers of ONNX Runtime that make these graphs worse:
DISABLED_OPTIMIZERS = [
    # It gives an fp32 convolution between two int8 ones 8-bit weights with one scale for all channels. That costs a
    # network with fp32 depthwise convolutions more accuracy than int8 depthwise convolutions would.
    "WeightBiasQuantization",
    # The fused addition and norm takes six times as long as the two operators, 5 to 10% of a frame.
    "SkipLayerNormFusion",
]
_NO_LIMIT = BatchLimit()
_PLUGIN = "onnxruntime_ep_cuda"  # package of its CUDA plugin, which distributions for CUDA 12 and 13 install
_registered: set[str] = set()  # names of registered plugins


def import_onnxruntime() -> types.ModuleType:
    """Import ONNX Runtime.

    Raises:
        MissingDependencyError: ONNX Runtime is not installed.
        BackendError: both of its distributions are installed in one folder; they overwrite each other's files.
    """
    cpu, gpu = (
        {str(found.locate_file("onnxruntime")) for found in importlib.metadata.distributions(name=name)}
        for name in ("onnxruntime", "onnxruntime-gpu")
    )
    if cpu & gpu:
        raise BackendError(
            "onnxruntime and onnxruntime-gpu are both installed and overwrite each other; keep one: "
            "pip uninstall onnxruntime onnxruntime-gpu, then pip install 'idol-deploy[cpu]' or 'idol-deploy[gpu]'"
        )
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingDependencyError("onnxruntime", "cpu", "running the network") from error
    return onnxruntime  # type: ignore[no-any-return, unused-ignore]


def open_session(
    graph: bytes,
    device: str = "cpu",
    threads: int | None = None,
    libraries: Sequence[Path] = (),
    *,
    integers: bool = True,
) -> Any:
    """Open an `onnxruntime.InferenceSession` on exactly the given device, without a fallback to another.

    Args:
        graph: contents of an ONNX file.
        device: `cpu`, `cuda` or `cuda:N`.
        threads: threads of one operator, 1 to 1024; None: ONNX Runtime's default.
        libraries: libraries of custom operators, such as `idol_plugins.ort.ort_library()`.
        integers: compute operators between quantized tensors in integers; False: in fp32. On processors without
            dot-product instructions integer sums may overflow, unless the weights were chosen for such processors.

    Raises:
        ConfigError: the number of threads is out of range.
        MissingDependencyError: ONNX Runtime is not installed.
        BackendError: the device is not available, or ONNX Runtime refuses the graph.
    """
    check_threads(threads)
    runtime = import_onnxruntime()
    options = runtime.SessionOptions()
    options.log_severity_level = 3  # errors only: the warnings about constant folding help no user
    if threads is not None:
        options.intra_op_num_threads = threads
    # By default its threads spin between frames, on cores that decode masks.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    options.add_session_config_entry("session.disable_quant_qdq", "0" if integers else "1")
    for library in libraries:
        _register(options, library)
    providers = _providers(runtime, device, options)
    try:
        session = runtime.InferenceSession(
            graph, options, providers=providers, disabled_optimizers=DISABLED_OPTIMIZERS
        )
    except Exception as error:
        raise BackendError(
            f"ONNX Runtime {runtime.__version__} refuses the graph: {_first_line(error)}"
        ) from error
    if device != "cpu" and session.get_providers()[0] == "CPUExecutionProvider":
        raise BackendError(f"ONNX Runtime could not start on {device}; check its driver, or use --device cpu")
    return session


def _register(options: Any, library: Path) -> None:
    try:
        options.register_custom_ops_library(str(library))
    except Exception as error:
        raise BackendError(
            f"ONNX Runtime cannot load {library}: {_first_line(error)}; build it again: idol-deploy plugins build"
        ) from error


def _providers(
    runtime: types.ModuleType, device: str, options: Any
) -> list[tuple[str, dict[str, str]]] | None:
    """Return the execution providers of a session; None: `options` now has a plugin's."""
    kind = device_kind(device)
    if kind == "cpu":
        return [("CPUExecutionProvider", {})]
    if kind != "cuda":
        raise BackendError(f"ONNX Runtime does not run on {device}; use --backend openvino, or --device cpu")
    index = device.partition(":")[2] or "0"
    # TF32 is on by default and rounds the inputs of fp32 products to 10 bits; the graph defines the types.
    exact = {"use_tf32": "0"}
    if _has_cuda(runtime):
        return [("CUDAExecutionProvider", {"device_id": index, **exact}), ("CPUExecutionProvider", {})]
    found = [each for each in _plugin_devices(runtime) if each.ep_metadata.get("cuda_device_id") == index]
    if not found:
        raise BackendError(
            f"ONNX Runtime's CUDA plugin does not find {device}; check the driver, or use --device cpu"
        )
    options.add_provider_for_devices(found, exact)
    return None


def _has_cuda(runtime: types.ModuleType) -> bool:
    """Return whether ONNX Runtime has CUDA itself, without its plugin."""
    return not _registered and "CUDAExecutionProvider" in runtime.get_available_providers()


def _plugin_devices(runtime: types.ModuleType) -> list[Any]:
    """Return the devices of ONNX Runtime's CUDA plugin, which is registered in the process at the first call."""
    try:
        plugin = importlib.import_module(_PLUGIN)
    except ImportError as error:
        raise BackendError(
            "this ONNX Runtime has no CUDA; run: pip uninstall onnxruntime; pip install 'idol-deploy[gpu]'"
        ) from error
    name = plugin.get_ep_name()
    if name not in _registered:
        try:
            runtime.register_execution_provider_library(name, plugin.get_library_path())
        except Exception as error:
            raise BackendError(
                f"ONNX Runtime {runtime.__version__} cannot load its CUDA plugin: {_first_line(error)}; install "
                "a release of onnxruntime-ep-cuda13 for it"
            ) from error
        _registered.add(name)
    return [device for device in runtime.get_ep_devices() if device.ep_name == name]


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n", 1)[0][:300]


def run_session(session: Any, names: Sequence[str], images: ImageBatch) -> Mapping[str, NDArray[np.float32]]:
    """Run a session and return the named outputs for these frames.

    Raises:
        BackendError: ONNX Runtime failed, for example for lack of memory.
    """
    try:
        outputs = session.run(list(names), {"image": images})
    except Exception as error:
        raise BackendError(f"ONNX Runtime failed: {_first_line(error)}") from error
    return dict(zip(names, outputs, strict=True))


def _operator(device: str) -> tuple[Path]:
    library = ort_library()
    if device != "cpu" and not serves_cuda(library):
        raise BackendError(
            f"{library} is built for CPUs only; build it again: idol-deploy plugins build --cuda"
        )
    return (library,)


def _batch_limit(dynamic: bool, graph: GraphName) -> BatchLimit:
    if not dynamic:
        return BatchLimit(1, "the bundle's graphs take one frame at a time; export it with --dynamic-batch")
    if graph == "int8-ort":
        # A stream's outputs would depend on the other streams' frames.
        return BatchLimit(
            1, "int8-ort computes its ranges at run time over the whole batch; use --graph plugin"
        )
    return _NO_LIMIT


@dataclass
class OnnxRuntimeBackend:
    """A graph in an ONNX Runtime session; for the attributes see `Backend`."""

    engine: ClassVar[Engine] = "onnxruntime"
    title: ClassVar = "ONNX Runtime"
    devices: ClassVar[tuple[str, ...]] = ("cpu", "cuda")
    fp32_graphs: ClassVar[tuple[GraphName, ...]] = ("plugin", "portable")
    timed: ClassVar[Mapping[str, tuple[ReducedName, ...]] | None] = {"cpu": ("int8-ort",), "cuda": ("fp16",)}

    session: Any
    name: str
    network_size: tuple[int, int] | None
    graph: GraphName | None = "portable"
    batch: BatchLimit = _NO_LIMIT
    reason: str = ""

    @classmethod
    def available_devices(cls) -> Sequence[str]:
        """Return the CPU, after CUDA where this ONNX Runtime has it; see `BundleBackend`."""
        cuda = _has_cuda(import_onnxruntime()) or importlib.util.find_spec(_PLUGIN) is not None
        return ("cuda", "cpu") if cuda else ("cpu",)

    @classmethod
    def from_bundle(cls, bundle: Bundle, graph: GraphName, options: OpenOptions) -> "OnnxRuntimeBackend":
        """Load a graph; see `BundleBackend`.

        Raises:
            PluginError: the operator's library is not built.
            BackendError: ONNX Runtime refuses the graph or the device, the bundle lacks the graph, or the graph's
                inputs and outputs differ from the manifest.
        """
        manifest, device = bundle.manifest, options.device
        info = manifest.precisions.get(cast(ReducedName, graph))
        needs_operator = graph == "plugin" or (info is not None and info.operator)
        libraries = _operator(device) if needs_operator else ()
        session = open_session(bundle.graph(graph), device, options.threads, libraries)
        names = [tensor.name for tensor in (*session.get_inputs(), *session.get_outputs())]
        promised = [tensor.name for tensor in (*manifest.inputs, *manifest.outputs)]
        if names != promised or not set(OUTPUT_NAMES) <= set(names):
            raise BackendError(f"{bundle.path}: the graph has {names}, its manifest promises {promised}")
        name = f"onnxruntime ({device}, {graph} graph)"
        limit = _batch_limit(manifest.dynamic_batch, graph)
        return cls(session, name, manifest.network_size, graph, limit)

    def infer(self, images: ImageBatch) -> list[NetworkOutput]:
        """Run the network and return one output per frame."""
        return split_batch(run_session(self.session, OUTPUT_NAMES, images))

    def close(self) -> None:
        """Release the session."""
        self.session = None
