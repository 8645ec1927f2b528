"""Engines that are missing or broken, in child processes as the doctor runs them; GPUs; and bundles."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from idol_plugins import cuda_driver
from idol_runtime.doctor import engines
from idol_runtime.doctor.advice import advise
from idol_runtime.doctor.probe import GROUPS, Finding, Subject, examine
from tests.runtime.doctor.conftest import ORIN, ORIN_6, SERVER
from tests.runtime.doctor.test_advice import COMPLETE

if TYPE_CHECKING:
    from tests.runtime.doctor.conftest import MakeRoot

NVDLA = "libnvdla_compiler.so: cannot open shared object file: No such file or directory"
BUNDLE = Path(__file__).parents[3] / "models" / "edge_synth" / "edge_synth.idol"


def _fake(folder: Path, monkeypatch: pytest.MonkeyPatch, **modules: str) -> None:
    for name, text in modules.items():
        (folder / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(str(folder))


def _groups(*names: str) -> list[tuple[str, ...]]:
    return [group for group in GROUPS if {place.partition(":")[2] for place in group} & set(names)]


def test_jetpack_7_without_the_library_of_jetpack_6(
    tmp_path: Path, make_root: MakeRoot, monkeypatch: pytest.MonkeyPatch
) -> None:
    _fake(tmp_path, monkeypatch, tensorrt=f"raise ImportError({NVDLA!r})")
    subject = Subject(make_root({**ORIN, ".dockerenv": ""}))
    findings = examine(subject, _groups("system", "tensorrt"))
    assert findings["tensorrt"].state == "faulty"
    entries = {entry.name: entry for entry in advise({**COMPLETE, **findings})}
    assert "image for Arm servers (SBSA)" in entries["libnvdla_compiler.so"].fix
    assert NVDLA in entries["libnvdla_compiler.so"].why
    assert entries["full clocks"].fix == "sudo nvpmodel -m 2"


def test_missing_packages(tmp_path: Path, make_root: MakeRoot, monkeypatch: pytest.MonkeyPatch) -> None:
    block = "raise ModuleNotFoundError(f'No module named {__name__!r}', name=__name__)"
    _fake(
        tmp_path,
        monkeypatch,
        onnxruntime=block,
        tensorrt=block,
        cv2=block,
        av=block,
        starlette=block,
        paho=block,
    )
    root = make_root({**ORIN_6, "usr/lib/python3.10/dist-packages/tensorrt/__init__.py": ""})
    findings = examine(Subject(root), _groups("onnxruntime", "tensorrt", "pyav", "opencv", "serve"))
    assert findings["onnxruntime"] == Finding("missing", "onnxruntime is not installed")
    assert findings["library_onnxruntime"].state in ("missing", "unknown")
    assert findings["tensorrt"] == Finding("missing", "not installed", {"in_system": True})
    assert findings["pyav"] == Finding("missing", "av is not installed")
    assert findings["opencv"].state == "missing"
    assert findings["serve"] == Finding("missing", "starlette is not installed")
    assert findings["mqtt"] == Finding("missing", "paho-mqtt is not installed")


def test_a_tensorrt_that_is_too_old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _fake(tmp_path, monkeypatch, tensorrt="__version__ = '8.6.2'")
    (finding,) = examine(Subject(tmp_path), [["idol_runtime.doctor.engines:tensorrt"]]).values()
    assert finding == Finding("faulty", "TensorRT 8.6.2 is too old; install 10.3 or newer (JetPack 6.1)")


def test_pytorch_is_not_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _fake(tmp_path, monkeypatch, torch="raise SystemExit(7)")
    (tmp_path / "torch-9.8.dist-info").mkdir()
    (tmp_path / "torch-9.8.dist-info" / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: torch\nVersion: 9.8\n"
    )
    (finding,) = examine(Subject(tmp_path), [["idol_runtime.doctor.engines:pytorch"]]).values()
    assert (finding.state, finding.details["version"]) == ("present", "9.8")


def test_a_gpu_without_a_driver(make_root: MakeRoot, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: str) -> None:
        raise OSError("libcuda.so.1: cannot open shared object file")

    for module in ("cuda", "cuda.bindings", "cuda.bindings.driver"):
        monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.setattr(cuda_driver.ctypes, "CDLL", refuse)
    finding = engines.gpu(Subject(make_root(SERVER)))
    assert (finding.state, finding.details["devices"]) == ("faulty", [])
    assert "NVIDIA GPU, but there is no CUDA driver here" in finding.summary
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
    states = [row["state"] for row in finding.details["candidates"]]
    assert states[0] == "passed"
    assert set(states[1:]) <= {"not tried", "refused"}


def test_a_bundle_without_a_graph_that_runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    from idol_runtime.backends.opening import Candidate
    from idol_runtime.errors import BackendError

    def fail(*_: object) -> None:
        raise BackendError("scores differs from PyTorch by 1e+00")

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(engines, "check_golden_frame", fail)
    monkeypatch.setattr(engines, "list_candidates", lambda *_: [Candidate("onnxruntime", "cpu", "portable")])
    finding = engines.bundle(Subject(Path("/"), str(BUNDLE)))
    assert finding.state == "faulty"
    assert finding.summary.startswith("no graph runs here: ")
    assert "differs from PyTorch" in str(finding.details["candidates"])
    assert "passed" not in str(finding.details["candidates"])
