"""The command for each missing thing, on several machines."""

from __future__ import annotations

from typing import Any

import pytest

from idol_runtime.doctor.advice import advise, engines
from idol_runtime.doctor.probe import Finding

OK = Finding("present", "ok")
ABSENT = Finding("missing", "not installed")
ALL = (
    *("system", "cpu", "memory", "power", "clock", "gpu", "library_cuda", "openvino", "library_openvino"),
    *("onnxruntime", "library_onnxruntime", "tensorrt", "library_tensorrt", "pytorch", "library_image"),
    *("build_tools", "pyav", "opencv", "gstreamer", "cameras", "serve", "mqtt", "disk"),
)
ELEMENTS = dict.fromkeys(("v4l2src", "nvarguscamerasrc", "nvvidconv", "nvv4l2decoder"), True)
COMPLETE = {
    **dict.fromkeys(ALL, OK),
    "gpu": Finding("missing", "no NVIDIA GPU", {"intel": False}),
    "openvino": Finding("present", "", {"devices": ["cpu"], "openvino_devices": {"CPU": "AMD EPYC"}}),
    "onnxruntime": Finding("present", "", {"devices": ["cpu"]}),
    "tensorrt": ABSENT,
    "gstreamer": Finding("present", "", {"elements": ELEMENTS}),
    "build_tools": Finding("present", "", {"C++ compiler": "/usr/bin/g++", "CMake": "/usr/bin/cmake"}),
}
TENSORRT = Finding("present", "", {"devices": ["cuda"]})
H200 = Finding("present", "", {"nvidia": True, "cuda": "13.0", "devices": [{}]})


def _system(**values: Any) -> Finding:
    details = {"machine": "x86_64", "os_ids": ["debian"], "python": "3.12.3", "jetson": {}, "container": ""}
    return Finding("present", "", {**details, **values})


def _jetson(jetpack: str, **values: Any) -> Finding:
    return _system(
        machine="aarch64", os_ids=["ubuntu"], jetson={"JetPack": jetpack}, prefix="/opt/v env", **values
    )


def _fixes(**findings: Finding) -> list[str]:
    return [entry.fix for entry in advise({**COMPLETE, "system": _system(), **findings})]


def _library(state: Any, fix: str) -> Finding:
    return Finding(state, "not built", {"title": "operator", "fix": fix})


def _bundle(why_not: str, graph: str | None = "bf16") -> Finding:
    return Finding(
        "present", "", {"candidates": [{"graph": graph, "backend": "openvino", "why_not": why_not}]}
    )


NVDLA = "running engines needs tensorrt, which cannot be loaded: libnvdla_compiler.so: cannot open shared object file"
BUILD = "idol-deploy plugins build"


def test_root_needs_no_sudo() -> None:
    assert _fixes(system=_system(root=True), gstreamer=ABSENT)[0].startswith("apt install ")


@pytest.mark.parametrize(("gpu", "fixes"), [(H200, ["idol-deploy build model.idol"]), (COMPLETE["gpu"], [])])
def test_an_engine_is_built_where_there_is_a_gpu(gpu: Finding, fixes: list[str]) -> None:
    bundle = _bundle("no engine of model.idol is stored; build one: idol-deploy build model.idol", graph=None)
    runtime = Finding("present", "", {"devices": ["cuda", "cpu"]})
    assert _fixes(gpu=gpu, tensorrt=TENSORRT, onnxruntime=runtime, bundle=bundle) == fixes


def test_nothing_is_missing() -> None:
    assert _fixes() == []


@pytest.mark.parametrize(
    ("findings", "fix"),
    [
        ({"system": _system(), "openvino": ABSENT}, "pip install 'idol-deploy[openvino]'"),
        ({"system": _system(), "onnxruntime": ABSENT}, "pip install 'idol-deploy[cpu]'"),
        ({"gpu": H200, "tensorrt": TENSORRT, "onnxruntime": ABSENT}, "pip install 'idol-deploy[gpu]'"),
        (
            {"gpu": H200, "tensorrt": TENSORRT},
            "pip uninstall -y onnxruntime && pip install 'idol-deploy[gpu]'",
        ),
        ({"system": _system(), "pyav": ABSENT, "opencv": ABSENT}, "pip install 'idol-deploy[video]'"),
        ({"serve": ABSENT}, "pip install 'idol-deploy[serve]'"),
        ({"mqtt": ABSENT}, "pip install 'idol-deploy[mqtt]'"),
        (
            {"system": _jetson("6.2"), "tensorrt": TENSORRT, "pyav": ABSENT},
            "pip install 'idol-deploy[jetson]'",
        ),
        ({"system": _jetson("7"), "tensorrt": TENSORRT, "opencv": ABSENT}, "sudo apt install nvidia-jetpack"),
        ({"system": _jetson("7"), "tensorrt": ABSENT}, "sudo apt install nvidia-jetpack"),
        (
            {"system": _jetson("7"), "tensorrt": Finding("missing", "", {"in_system": True})},
            "python3 -m venv --system-site-packages '/opt/v env'",
        ),
        (
            {"system": _jetson("5"), "tensorrt": ABSENT},
            "install JetPack 6.1 or newer: JetPack 5 has TensorRT 8.5, which is not supported",
        ),
        (
            {"system": _jetson("6"), "tensorrt": Finding("faulty", NVDLA)},
            "sudo apt install nvidia-l4t-dla-compiler",
        ),
        (
            {"system": _jetson("6", container="docker"), "tensorrt": Finding("faulty", NVDLA)},
            "on the host: sudo apt install nvidia-l4t-dla-compiler",
        ),
        (
            {"system": _jetson("7"), "tensorrt": Finding("faulty", NVDLA)},
            "sudo apt install --reinstall nvidia-jetpack",
        ),
        (
            {
                "system": _system(),
                "tensorrt": Finding("faulty", "TensorRT 8.6 is too old; install 10.3 or newer"),
            },
            "install 10.3 or newer",
        ),
        ({"library_openvino": _library("missing", BUILD)}, BUILD),
        (
            {
                "library_openvino": _library("faulty", BUILD),
                "library_onnxruntime": _library("missing", f"{BUILD} --fetch-headers"),
                "build_tools": Finding("missing", "", {}),
            },
            f"sudo apt install g++ cmake && {BUILD} --fetch-headers",
        ),
        (
            {
                "system": _jetson("7"),
                "tensorrt": TENSORRT,
                "library_tensorrt": _library("missing", f"{BUILD} --cuda"),
            },
            f"sudo apt install nvidia-jetpack && {BUILD} --cuda",
        ),
        (
            {"system": _system(), "gstreamer": ABSENT},
            "sudo apt install gstreamer1.0-tools gstreamer1.0-plugins-good",
        ),
        (
            {"system": _system(os_ids=["fedora"]), "gstreamer": ABSENT},
            "install gstreamer1.0-tools and gstreamer1.0-plugins-good",
        ),
        (
            {
                "system": _jetson("7"),
                "tensorrt": TENSORRT,
                "gstreamer": Finding("present", "", {"elements": {**ELEMENTS, "nvvidconv": False}}),
            },
            "sudo apt install nvidia-l4t-gstreamer",
        ),
        (
            {"cameras": Finding("present", "", {"video0": {"exists": True, "allowed": False, "index": 0}})},
            "sudo usermod -aG video $USER, then log in again",
        ),
        (
            {"cameras": Finding("present", "", {"video0": {"exists": False, "allowed": False, "index": 0}})},
            "start the container with: docker run --device /dev/video0",
        ),
        (
            {
                "power": Finding(
                    "present", "", {"power_mode": "1 (25W)", "power_modes": {"25W": 1, "MAXN_SUPER": 2}}
                )
            },
            "sudo nvpmodel -m 2",
        ),
        (
            {
                "system": _system(container="docker"),
                "clock": Finding("faulty", "1970, not synchronised; sudo timedatectl set-ntp true"),
            },
            "on the host: sudo timedatectl set-ntp true",
        ),
        ({"gpu": Finding("faulty", "NVIDIA GPU, but no driver")}, "sudo apt install nvidia-driver"),
        (
            {"system": _system(container="docker"), "gpu": Finding("faulty", "NVIDIA GPU, but no driver")},
            "start the container with: docker run --gpus all",
        ),
        ({"gpu": Finding("missing", "", {"intel": True})}, "sudo apt install intel-opencl-icd"),
        (
            {
                "bundle": _bundle(
                    "the bf16 graph is not verified; verify it here: idol-deploy certify model.idol"
                )
            },
            "idol-deploy certify model.idol",
        ),
    ],
)
def test_the_one_command(findings: dict[str, Finding], fix: str) -> None:
    assert _fixes(**findings) == [fix]


def test_tensorrt_of_a_container_on_jetpack_7() -> None:
    (entry,) = advise(
        {**COMPLETE, "system": _jetson("7.2", container="docker"), "tensorrt": Finding("faulty", NVDLA)}
    )
    assert entry.name == "libnvdla_compiler.so"
    assert "SBSA" in entry.fix
    assert "apt" not in entry.fix


@pytest.mark.parametrize(
    ("machine", "cuda", "fix"),
    [
        ("x86_64", "12.8", "pip install tensorrt-cu12 'cuda-python<13'"),
        ("x86_64", "13.0", "pip install 'idol-deploy[tensorrt]'"),
        ("aarch64", "12.8", "install a driver for CUDA 13: TensorRT's packages for Arm need it"),
    ],
)
def test_tensorrt_for_a_driver(machine: str, cuda: str, fix: str) -> None:
    gpu = Finding("present", "", {"cuda": cuda})
    runtime = Finding("present", "", {"devices": ["cuda", "cpu"]})
    assert _fixes(system=_system(machine=machine), gpu=gpu, onnxruntime=runtime) == [fix]


@pytest.mark.parametrize(
    ("system", "needed"),
    [
        (_system(), {"OpenVINO": True, "ONNX Runtime": False}),
        (_system(machine="aarch64"), {"ONNX Runtime": True}),
        (_jetson("7"), {"ONNX Runtime": True, "TensorRT": False}),
    ],
)
def test_one_engine_is_needed_and_listed_first(system: Finding, needed: dict[str, bool]) -> None:
    others = {"openvino": ABSENT, "onnxruntime": ABSENT, "clock": Finding("faulty", "slow; set it")}
    findings = {**COMPLETE, "system": system, **others}
    entries = advise(findings)
    assert entries[0].needed
    assert {entry.name: entry.needed for entry in entries} == {**needed, "clock": False}


def test_devices_of_a_gpu_that_is_not_there_are_left_out() -> None:
    gpu_build = Finding("present", "", {"devices": ["cuda", "cpu"]})
    findings = {**COMPLETE, "onnxruntime": gpu_build, "tensorrt": TENSORRT}
    assert engines(findings) == {"openvino": ["cpu"], "onnxruntime": ["cpu"]}
    assert list(engines({**findings, "gpu": H200})) == ["tensorrt", "openvino", "onnxruntime"]


def test_probes_without_an_answer_are_no_advice() -> None:
    assert advise(dict.fromkeys(ALL, Finding("unknown", "no answer within the time limit"))) == []
