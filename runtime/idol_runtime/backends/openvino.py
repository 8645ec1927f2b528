"""OpenVINO on a CPU, an Intel GPU or an Intel NPU."""

import functools
import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, cast

import numpy as np

from idol_plugins.errors import PluginError
from idol_plugins.headers import openvino_release
from idol_plugins.libraries import user_cache
from idol_plugins.openvino import core_with_operator, import_openvino, openvino_library
from idol_runtime.backends.base import BatchLimit, ImageBatch, OpenOptions
from idol_runtime.bundle.bundle import OUTPUT_NAMES, Bundle
from idol_runtime.bundle.certificates import Engine, GraphName, ReducedName
from idol_runtime.errors import BackendError, MissingDependencyError
from idol_runtime.tracking.detection import NetworkOutput

__all__ = ["OpenVinoBackend"]

_NO_LIMIT = BatchLimit()
_CACHE_BYTES = 2**30
_CACHED = ("gpu", "npu")  # kinds of device that take long to compile for; a CPU takes a second


@dataclass
class OpenVinoBackend:
    """A graph in OpenVINO; for the attributes see `Backend`.

    A single frame runs on all threads. The frames of a batch run at the same time on a share of the threads each, which
    is faster than one call with all frames. The graph is compiled for one frame in both cases.
    """

    engine: ClassVar[Engine] = "openvino"
    title: ClassVar = "OpenVINO"
    devices: ClassVar[tuple[str, ...]] = ("cpu", "gpu", "npu")
    fp32_graphs: ClassVar[tuple[GraphName, ...]] = ("plugin", "portable")
    timed: ClassVar[Mapping[str, tuple[ReducedName, ...]] | None] = {
        "cpu": ("bf16", "int8-qdq"),
        "gpu": (),  # certificates are of CPUs
        "npu": (),
    }

    core: Any
    model: Any
    device: str  # OpenVINO's name, such as CPU and GPU.1
    settings: Mapping[str, str]
    name: str
    network_size: tuple[int, int] | None
    graph: GraphName | None = "portable"
    batch: BatchLimit = _NO_LIMIT
    reason: str = ""
    _single: Any = field(default=None, init=False)
    _batch: Any = field(default=None, init=False)
    _requests: list[Any] = field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        self._single = self._compile("LATENCY").create_infer_request()

    @classmethod
    def available_devices(cls) -> Sequence[str]:
        """Return the CPU: GPUs and NPUs take long to compile for, so that they are used only by name."""
        _import()
        return ("cpu",)

    @classmethod
    def from_bundle(cls, bundle: Bundle, graph: GraphName, options: OpenOptions) -> "OpenVinoBackend":
        """Load a graph; see `BundleBackend`."""
        manifest, kind = bundle.manifest, options.device.partition(":")[0]
        info = manifest.precisions.get(cast(ReducedName, graph))
        operator = graph == "plugin" or (info is not None and info.operator)
        core = _core()
        device = _device(core, options.device)
        if operator and kind != "cpu":
            raise BackendError(f"the operator for OpenVINO does not run on {kind}; use --graph portable")
        if operator:
            core = _core(openvino_library())
        try:
            model = core.read_model(bundle.graph(graph), b"")
            _round_constants(model)
            names = [port.get_names() for port in (*model.inputs, *model.outputs)]  # all of each
            model.reshape([1, *manifest.network_size, 3])
        except Exception as error:
            raise _refusal(error) from error
        promised = [tensor.name for tensor in (*manifest.inputs, *manifest.outputs)]
        if len(names) != len(promised) or any(
            name not in own for name, own in zip(promised, names, strict=True)
        ):
            raise BackendError(f"{bundle.path}: the graph has {names}, its manifest promises {promised}")
        settings = _settings("fp32" if info is None else info.precision, kind, options.threads)
        name = f"openvino ({options.device}, {graph} graph)"
        return cls(core, model, device, settings, name, manifest.network_size, graph)

    def infer(self, images: ImageBatch) -> list[NetworkOutput]:
        """Run the network and return one output per frame."""
        requests = [self._single] if len(images) == 1 else self._batch_requests(len(images))
        try:
            for request, image in zip(requests, images, strict=True):
                request.start_async({"image": image[None]}, share_inputs=True)
            for request in requests:
                request.wait()
            # The next frame overwrites the request's memory.
            return [
                NetworkOutput(**{name: request.get_tensor(name).data[0].copy() for name in OUTPUT_NAMES})
                for request in requests
            ]
        except Exception as error:
            raise BackendError(f"OpenVINO failed: {_message(error)}") from error

    def close(self) -> None:
        """Release the compiled network."""
        self._single = self._batch = self.model = self.core = None
        self._requests.clear()

    def _batch_requests(self, frames: int) -> list[Any]:
        if self._batch is None:
            self._batch = self._compile("THROUGHPUT", PERFORMANCE_HINT_NUM_REQUESTS=str(frames))
        while len(self._requests) < frames:
            self._requests.append(self._batch.create_infer_request())
        return self._requests[:frames]

    def _compile(self, hint: str, **settings: str) -> Any:
        try:
            return self.core.compile_model(
                self.model, self.device, {"PERFORMANCE_HINT": hint, **self.settings, **settings}
            )
        except Exception as error:
            raise _refusal(error) from error


def _import() -> Any:
    if importlib.util.find_spec("openvino") is None:
        raise MissingDependencyError("openvino", "openvino", "running the network in OpenVINO")
    return import_openvino()


def _core(library: Path | None = None) -> Any:
    _import()
    return _shared_core(library)


@functools.cache
def _shared_core(library: Path | None) -> Any:
    """Return a core that is never freed, with the operator of a library if one is given.

    A core replaces the stack for signals, and restores the previous one when it is freed. Cores that are freed in
    another order than they were made leave a freed stack; the next Ctrl-C is then a segmentation fault.
    """
    return import_openvino().Core() if library is None else core_with_operator(library)


def _device(core: Any, device: str) -> str:
    """Return OpenVINO's name of a device.

    Raises:
        BackendError: OpenVINO does not find it.
    """
    kind, _, index = device.partition(":")
    available = core.available_devices  # without a number where there is one device of a kind
    if f"{kind.upper()}.{index or 0}" not in [name if "." in name else f"{name}.0" for name in available]:
        raise BackendError(
            f"OpenVINO finds no {device}, only {', '.join(available)}; install the device's driver, or use "
            "--device cpu"
        )
    return f"{kind.upper()}.{index}" if index else kind.upper()


def _settings(precision: str, kind: str, threads: int | None) -> dict[str, str]:
    # The graph defines the types. By default, a processor with bf16 instructions would round all values to bf16.
    settings = {"EXECUTION_MODE_HINT": "ACCURACY"}
    # fp16 on a CPU computes in fp32, as certified: see `decisive_features`.
    if precision in ("fp32", "int8") or (precision == "fp16" and kind == "cpu"):
        settings["INFERENCE_PRECISION_HINT"] = "f32"
    if kind == "cpu":
        # By default, each process would tie its threads to the same cores.
        settings["ENABLE_CPU_PINNING"] = "NO"
        if threads is not None:
            settings["INFERENCE_NUM_THREADS"] = str(threads)
    return settings | _cache() if kind in _CACHED else settings


def _cache() -> dict[str, str]:
    """Return the setting for a cache of compiled graphs in the user's cache; delete its oldest files beyond 1 GiB.

    Returns no setting where the user has no writable cache.
    """
    try:
        folder = user_cache() / "openvino"
        folder.mkdir(parents=True, exist_ok=True)
        total = 0
        for file in sorted(folder.iterdir(), key=lambda path: path.stat().st_mtime, reverse=True):
            total += file.stat().st_size
            if total > _CACHE_BYTES:
                file.unlink()
    except (PluginError, OSError):
        return {}
    return {"CACHE_DIR": str(folder)}


def _round_constants(model: Any) -> None:
    """Replace casts of constants to bf16: OpenVINO 2026.4 rounds them wrongly, by up to one unit in the last place."""
    from openvino import Shape, Tensor, Type
    from openvino.op import Constant

    for node in model.get_ordered_ops():
        if node.get_type_name() != "Convert" or node.get_output_element_type(0) != Type.bf16:
            continue
        source = node.input_value(0).get_node()
        if source.get_type_name() == "Constant":
            bits = source.data.astype(np.float32).view(np.uint32)
            # To nearest, ties to even.
            rounded = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
            tensor = Tensor(rounded, Shape(list(rounded.shape)), Type.bf16)
            constant = Constant(tensor, shared_memory=False)  # else it would refer to freed memory
            node.output(0).replace(constant.output(0))


def _refusal(error: Exception) -> BackendError:
    return BackendError(
        f"OpenVINO {openvino_release()} refuses the graph: {_message(error)}; use another --graph or --backend"
    )


def _message(error: Exception) -> str:
    """Return the message of OpenVINO's error in one line, without the places in its source code."""
    lines = [line.strip() for line in str(error).splitlines()]
    return " ".join(line for line in lines if line and not line.startswith("Exception from"))[:300]
