"""Engines that are missing or broken, in child processes as the doctor runs them; GPUs; and bundles."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest

from idol_plugins import cuda_driver, libraries
from idol_runtime.doctor import engines
from idol_runtime.doctor.probe import GROUPS, Finding, examine
from idol_runtime.doctor.subject import Subject
from idol_runtime.errors import IdolError, MissingDependencyError
from tests.runtime.doctor.conftest import ORIN, ORIN_6, SERVER

if TYPE_CHECKING:
    from tests.runtime.doctor.conftest import MakeRoot

NVDLA = "libnvdla_compiler.so: cannot open shared object file: No such file or directory"
UBUNTU = {"etc/os-release": "ID=ubuntu\n"}
BUNDLE = Path(__file__).parents[3] / "models" / "edge_synth" / "edge_synth.idol"


def _fake(folder: Path, monkeypatch: pytest.MonkeyPatch, **modules: str) -> None:
    for name, text in modules.items():
        (folder / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(str(folder))


def _groups(*names: str) -> list[tuple[str, ...]]:
    return [group for group in GROUPS if {place.partition(":")[2] for place in group} & set(names)]


@pytest.mark.parametrize(
    ("files", "fix"),
    [
        ({**ORIN, ".dockerenv": ""}, "start from an image for Arm servers (SBSA)"),
        (ORIN, "sudo apt install --reinstall nvidia-jetpack"),
        (ORIN_6, "sudo apt install nvidia-l4t-dla-compiler"),
        ({**ORIN_6, ".dockerenv": ""}, "on the host: sudo apt install nvidia-l4t-dla-compiler"),
    ],
    ids=["JetPack 7, container", "JetPack 7", "JetPack 6", "JetPack 6, container"],
)
def test_the_library_of_jetpack_6_is_missing(
    make_root: MakeRoot, monkeypatch: pytest.MonkeyPatch, files: Mapping[str, str], fix: str
) -> None:
    def fail() -> None:
        raise IdolError(f"running engines needs tensorrt, which cannot be loaded: {NVDLA}")

    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(engines, "import_tensorrt", fail)
    finding = engines.tensorrt(Subject(make_root(files)))
    assert finding.state == "faulty"
    assert NVDLA in finding.summary
    assert finding.fix.startswith(fix)


def test_a_tensorrt_that_cannot_be_loaded(
    tmp_path: Path, make_root: MakeRoot, monkeypatch: pytest.MonkeyPatch
) -> None:
    _fake(tmp_path, monkeypatch, tensorrt=f"raise ImportError({NVDLA!r})")
    findings = examine(Subject(make_root({**ORIN, ".dockerenv": ""})), _groups("tensorrt"))
    assert "image for Arm servers (SBSA)" in findings["tensorrt"].fix


def test_missing_packages(tmp_path: Path, make_root: MakeRoot, monkeypatch: pytest.MonkeyPatch) -> None:
    block = "raise ModuleNotFoundError(f'No module named {__name__!r}', name=__name__)"
    _fake(tmp_path, monkeypatch, onnxruntime=block, tensorrt=block, cv2=block, av=block)
    findings = examine(Subject(make_root(ORIN_6)), _groups("onnxruntime", "tensorrt", "pyav", "opencv"))
    fixes = {name: (finding.state, finding.fix) for name, finding in findings.items()}
    assert fixes["onnxruntime"] == ("missing", "pip install 'idol-deploy[cpu]'")
    assert fixes["pyav"] == ("missing", "pip install 'idol-deploy[jetson]'")
    assert fixes["tensorrt"][0] == fixes["opencv"][0] == "missing"
    assert fixes["tensorrt"][1].endswith("apt install nvidia-jetpack")


def test_a_tensorrt_that_is_too_old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _fake(tmp_path, monkeypatch, tensorrt="__version__ = '8.6.2'")
    (finding,) = examine(Subject(tmp_path), [["idol_runtime.doctor.engines:tensorrt"]]).values()
    fix = "install 10.3 or newer (JetPack 6.1)"
    assert finding == Finding("faulty", "TensorRT 8.6.2 is too old", {}, fix)


@pytest.mark.parametrize(
    ("driver", "x86", "fix"),
    [
        ("570.86.10", True, "pip install tensorrt-cu12 'cuda-python<13'"),
        ("580.00", True, "pip install 'idol-deploy[tensorrt]'"),
        ("", True, "pip install 'idol-deploy[tensorrt]'"),
        ("570.00", False, "install a driver for CUDA 13: TensorRT's packages for Arm need it"),
    ],
)
def test_tensorrt_for_a_driver(
    make_root: MakeRoot, monkeypatch: pytest.MonkeyPatch, driver: str, x86: bool, fix: str
) -> None:
    monkeypatch.setattr(engines, "_X86", x86)
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    version = f"NVRM version: NVIDIA UNIX x86_64 Kernel Module  {driver}  Release"
    subject = Subject(make_root({**SERVER, "proc/driver/nvidia/version": version}))
    finding = engines.tensorrt(subject)
    assert (finding.state, finding.fix) == ("missing", fix)
    without = Subject(make_root({}).parent)
    assert engines.tensorrt(without).fix == ""


def test_an_onnxruntime_without_cuda(make_root: MakeRoot, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "_X86", True)
    devices = ["cuda", "cpu"]
    monkeypatch.setattr(engines.OnnxRuntimeBackend, "available_devices", lambda: devices)
    runtime = SimpleNamespace(__version__="1.32", get_available_providers=lambda: ["CPUExecutionProvider"])
    monkeypatch.setattr(engines, "import_onnxruntime", lambda: runtime)
    assert engines.onnxruntime(Subject(make_root({}))).details["devices"] == ["cpu"]  # without a GPU
    subject = Subject(make_root(SERVER))
    assert engines.onnxruntime(subject).details["devices"] == ["cuda", "cpu"]
    del devices[0]
    assert (
        engines.onnxruntime(subject).fix == "pip uninstall -y onnxruntime && pip install 'idol-deploy[gpu]'"
    )
    assert engines.onnxruntime(Subject(make_root(ORIN))).fix == ""  # its wheels are for servers

    def fail() -> None:
        raise MissingDependencyError("onnxruntime", "cpu", "running")

    monkeypatch.setattr(engines, "import_onnxruntime", fail)
    assert engines.onnxruntime(subject).fix == "pip install 'idol-deploy[gpu]'"


def test_libraries_that_are_not_built(
    make_root: MakeRoot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setenv("IDOL_PLUGINS", str(tmp_path))
    subject = Subject(make_root(ORIN))
    monkeypatch.setattr(shutil, "which", lambda name: name)
    monkeypatch.setattr(libraries, "library_folders", lambda: [tmp_path])
    assert engines.library_image(subject).fix == "idol-deploy plugins build"
    monkeypatch.setattr(shutil, "which", lambda _: None)
    finding = engines.library_image(subject)
    assert (finding.state, finding.summary) == ("missing", "not built")
    assert finding.fix == "sudo apt install g++ cmake && idol-deploy plugins build"
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    assert engines.library_tensorrt(subject).fix == ""  # without TensorRT


def test_a_gpu_without_a_driver(make_root: MakeRoot, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: str) -> None:
        raise OSError("libcuda.so.1: cannot open shared object file")

    for module in ("cuda", "cuda.bindings", "cuda.bindings.driver"):
        monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.setattr(cuda_driver.ctypes, "CDLL", refuse)
    finding = engines.gpu(Subject(make_root(SERVER)))
    assert (finding.state, finding.details["devices"]) == ("faulty", [])
    assert finding.summary == "NVIDIA GPU, but there is no CUDA driver here"
    assert finding.fix == "start the container with: docker run --gpus all"
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    (make_root({}) / "run/.containerenv").unlink()
    assert engines.gpu(Subject(make_root({}))).fix == "install nvidia-driver"
    assert engines.gpu(Subject(make_root(UBUNTU))).fix == "sudo ubuntu-drivers install"
    shutil.rmtree(make_root(SERVER) / "sys")
    assert engines.gpu(Subject(make_root({}))).state == "missing"


def test_a_gpu_with_driver_and_toolkit(make_root: MakeRoot, monkeypatch: pytest.MonkeyPatch) -> None:
    class Driver:
        def call(self, name: str, *arguments: int) -> int:
            if name == "cuDeviceGetAttribute":
                return {75: 11, 76: 0}[arguments[0]]
            return {"cuDriverGetVersion": 13020, "cuDeviceGetCount": 1, "cuDeviceGet": 0}[name]

        def device_name(self, device: int) -> str:
            return "NVIDIA Thor"

    monkeypatch.setattr(engines, "open_driver", Driver)
    files = {
        "proc/driver/nvidia/version": "NVRM version: NVIDIA UNIX Open Kernel Module for aarch64  580.00  Release",
        "usr/local/cuda/version.json": '{"cuda" : {"name" : "CUDA SDK", "version" : "13.2.1"}}',
    }
    finding = engines.gpu(Subject(make_root({**ORIN, **files})))
    expected = "NVIDIA Thor (compute capability 11.0), driver 580.00 for CUDA 13.2, toolkit 13.2.1"
    assert finding.summary == expected


def test_a_bundle_that_cannot_be_read(tmp_path: Path) -> None:
    path = tmp_path / "broken.idol"
    path.write_bytes(b"PK\x05\x06" + bytes(18))
    finding = examine(Subject(Path("/"), str(path)), [])["bundle"]
    assert finding.state == "faulty"
    assert "broken.idol" in finding.summary


def test_a_bundle_that_runs_and_whose_choice_is_remembered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("onnxruntime")
    from idol_runtime.backends.base import OpenOptions
    from idol_runtime.backends.opening import Candidate
    from idol_runtime.backends.remembered import store_choice
    from idol_runtime.bundle.bundle import Bundle

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    best = Candidate("onnxruntime", "cpu", "portable")
    with Bundle.open(BUNDLE) as bundle:
        store_choice(bundle, OpenOptions(), best, "running portable on ONNX Runtime (cpu)", "a hint")
    finding = engines.bundle(Subject(Path("/"), str(BUNDLE)))
    assert finding.summary == "portable on ONNX Runtime (cpu) passes the golden check"
    first, hint = finding.details["choice"]
    assert first.startswith("running portable on ONNX Runtime (cpu); remembered from 2")
    assert hint == "a hint"
    assert "portable on ONNX Runtime" not in str(finding.details["refused"])


def test_a_bundle_without_a_graph_that_runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    from idol_runtime.backends.opening import Candidate
    from idol_runtime.errors import BackendError

    def fail(*_: object) -> None:
        raise BackendError("scores differs from PyTorch by 1e+00")

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(engines, "open_network", fail)
    why = "the bf16 graph is not verified; verify it here: idol-deploy certify model.idol."
    reduced = Candidate("openvino", "cpu", "bf16", why_not=why)
    portable = Candidate("onnxruntime", "cpu", "portable")
    monkeypatch.setattr(engines, "list_candidates", lambda *_: [portable, reduced])
    finding = engines.bundle(Subject(Path("/"), str(BUNDLE)))
    assert finding.state == "faulty"
    assert finding.summary.startswith("no graph runs here: ")
    assert finding.fix == "idol-deploy certify model.idol"
    assert "differs from PyTorch" in str(finding.details["refused"])
