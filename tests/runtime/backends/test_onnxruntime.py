"""Tests of ONNX Runtime's devices, with stand-ins for an ONNX Runtime with CUDA and for its CUDA plugin."""

import sys
from types import SimpleNamespace
from typing import Any

import pytest

from idol_runtime.backends import onnxruntime
from idol_runtime.backends.onnxruntime import OnnxRuntimeBackend, open_session
from idol_runtime.errors import BackendError


def _session_options() -> SimpleNamespace:
    return SimpleNamespace(add_session_config_entry=lambda name, value: None)


@pytest.mark.parametrize("device", ["cuda", "cuda:1"])
def test_cuda_that_is_not_in_this_onnxruntime(kit: Any, monkeypatch: pytest.MonkeyPatch, device: str) -> None:
    fake = SimpleNamespace(
        SessionOptions=_session_options, get_available_providers=lambda: ["CPUExecutionProvider"]
    )
    monkeypatch.setitem(sys.modules, "onnxruntime", fake)
    with pytest.raises(BackendError, match=r"idol-deploy\[gpu\]"):
        open_session(kit.tiny_graph, device)


def test_cuda_that_does_not_start_is_not_replaced_by_the_cpu(
    kit: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = SimpleNamespace(get_providers=lambda: ["CPUExecutionProvider"])
    providers: list[Any] = []

    def start(*_: object, **options: Any) -> SimpleNamespace:
        providers.extend(options["providers"])
        return session

    fake = SimpleNamespace(
        SessionOptions=_session_options,
        get_available_providers=lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"],
        InferenceSession=start,
    )
    monkeypatch.setitem(sys.modules, "onnxruntime", fake)
    with pytest.raises(BackendError, match="could not start on cuda:1; check its driver"):
        open_session(kit.tiny_graph, "cuda:1")
    assert providers[0] == ("CUDAExecutionProvider", {"device_id": "1", "use_tf32": "0"})


class CudaPlugin:
    """Stand-ins of ONNX Runtime without CUDA and of the package of its CUDA plugin, on a machine with two GPUs."""

    __version__ = "1.32.0"

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.registered: list[tuple[str, str]] = []
        self.added: list[tuple[list[Any], dict[str, str]]] = []
        self.providers = ["CUDAExecutionProvider", "CPUExecutionProvider"]
        self.SessionOptions, self.InferenceSession = self._options, self._session
        package = SimpleNamespace(
            __spec__="any",
            get_ep_name=lambda: "CUDAExecutionProvider",
            get_library_path=lambda: "/plugin/cuda.so",
        )
        monkeypatch.setitem(sys.modules, "onnxruntime_ep_cuda", package)
        monkeypatch.setitem(sys.modules, "onnxruntime", self)
        monkeypatch.setattr(onnxruntime, "_registered", set())

    def _options(self) -> SimpleNamespace:
        options = _session_options()
        options.add_provider_for_devices = lambda devices, settings: self.added.append((devices, settings))
        return options

    def get_available_providers(self) -> list[str]:
        return self.providers if self.registered else ["CPUExecutionProvider"]

    def register_execution_provider_library(self, name: str, path: str) -> None:
        if self.registered:
            raise RuntimeError("EP library is already registered")
        self.registered.append((name, path))

    def get_ep_devices(self) -> list[SimpleNamespace]:
        cpu = SimpleNamespace(ep_name="CPUExecutionProvider", ep_metadata={})
        return [cpu] + [
            SimpleNamespace(ep_name="CUDAExecutionProvider", ep_metadata={"cuda_device_id": index})
            for index in "10"
        ]

    def _session(self, graph: bytes, options: object, providers: object, **_: object) -> SimpleNamespace:
        assert providers is None, "those of the options"
        return SimpleNamespace(get_providers=lambda: self.providers)


def test_cuda_of_a_plugin(kit: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    plugin = CudaPlugin(monkeypatch)
    assert OnnxRuntimeBackend.available_devices() == ("cuda", "cpu")
    for device in ("cuda:1", "cuda"):
        open_session(kit.tiny_graph, device)
    assert plugin.registered == [("CUDAExecutionProvider", "/plugin/cuda.so")], "once in a process"
    chosen = [[device.ep_metadata["cuda_device_id"] for device in devices] for devices, _ in plugin.added]
    assert chosen == [["1"], ["0"]]
    assert [settings for _, settings in plugin.added] == 2 * [{"use_tf32": "0"}]
    with pytest.raises(BackendError, match="CUDA plugin does not find cuda:2; check the driver"):
        open_session(kit.tiny_graph, "cuda:2")
    plugin.providers = ["CPUExecutionProvider"]
    with pytest.raises(BackendError, match="could not start on cuda"):
        open_session(kit.tiny_graph, "cuda")


def test_a_cuda_plugin_that_cannot_be_loaded(kit: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    plugin = CudaPlugin(monkeypatch)
    monkeypatch.setattr(plugin, "get_available_providers", list)
    plugin.registered.append(("another", ""))
    with pytest.raises(
        BackendError, match=r"1\.32\.0 cannot load its CUDA plugin: EP library is already .*; install"
    ):
        open_session(kit.tiny_graph, "cuda")


@pytest.mark.parametrize("device", ["gpu", "gpu:1", "npu"])
def test_intel_devices_are_those_of_openvino(kit: Any, monkeypatch: pytest.MonkeyPatch, device: str) -> None:
    CudaPlugin(monkeypatch)
    with pytest.raises(
        BackendError, match=f"does not run on {device}; use --backend openvino, or --device cpu"
    ):
        open_session(kit.tiny_graph, device)
