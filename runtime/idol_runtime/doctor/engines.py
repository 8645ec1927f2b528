"""Probes of the GPU, the inference engines, the compiled libraries, and a bundle on this machine."""

import importlib.metadata
import importlib.util
import platform
import re
import shutil
import sys
from functools import partial
from typing import Any

from idol_plugins.cuda_driver import open_driver
from idol_plugins.errors import PluginError
from idol_plugins.libraries import BUILD
from idol_plugins.openvino import import_openvino
from idol_plugins.selftest import IMAGE, TARGETS, Target
from idol_runtime.backends.base import OpenOptions
from idol_runtime.backends.onnxruntime import OnnxRuntimeBackend, import_onnxruntime
from idol_runtime.backends.opening import Candidate, list_candidates
from idol_runtime.backends.openvino import OpenVinoBackend
from idol_runtime.backends.remembered import load_choice
from idol_runtime.backends.tensorrt import TensorRTBackend
from idol_runtime.backends.tensorrt_api import import_tensorrt
from idol_runtime.bundle.bundle import Bundle
from idol_runtime.doctor.probe import Finding
from idol_runtime.doctor.subject import Subject, install_extra
from idol_runtime.errors import IdolError, MissingDependencyError
from idol_runtime.pipeline import open_network

__all__ = [
    "bundle",
    "gpu",
    "library_image",
    "library_onnxruntime",
    "library_openvino",
    "library_tensorrt",
    "onnxruntime",
    "openvino",
    "tensorrt",
]

_X86 = platform.machine() in ("x86_64", "AMD64")
_CAPABILITY = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, _MINOR
_CUDA_13_DRIVER = 580  # the oldest driver for CUDA 13
_NVDLA = "libnvdla_compiler.so"
_TARGETS = {target.name: target for target in TARGETS}
_BUILD_TOOLS = {"g++": "c++", "cmake": "cmake"}  # commands by package


def gpu(subject: Subject) -> Finding:
    """Examine NVIDIA's driver with its devices, the CUDA toolkit, and the GPUs on the PCI bus."""
    text = subject.read("usr/local/cuda/version.json")
    toolkit = re.search(r'"cuda"\s*:\s*{[^}]*"version"\s*:\s*"([\d.]+)"', text)
    details: dict[str, Any] = {
        "nvidia": subject.nvidia,
        "driver": subject.driver or "?",
        "toolkit": toolkit[1] if toolkit else "not found",
        "devices": [],
    }
    try:
        driver = open_driver()
        cuda = int(driver.call("cuDriverGetVersion"))
        details["cuda"] = f"{cuda // 1000}.{cuda % 1000 // 10}"
        for index in range(int(driver.call("cuDeviceGetCount"))):
            device = driver.call("cuDeviceGet", index)
            capability = ".".join(str(driver.call("cuDeviceGetAttribute", a, device)) for a in _CAPABILITY)
            details["devices"].append({"name": driver.device_name(device), "capability": capability})
    except PluginError as error:
        if not subject.nvidia:
            return Finding("missing", "no NVIDIA GPU", details)
        why, _, fix = str(error).partition("; ")
        return Finding("faulty", f"NVIDIA GPU, but {why}", details, _get_driver(subject) or fix)
    names = ", ".join(f"{gpu['name']} (compute capability {gpu['capability']})" for gpu in details["devices"])
    versions = "driver {driver} for CUDA {cuda}, toolkit {toolkit}".format_map(details)
    return Finding("present" if names else "missing", f"{names or 'no device'}, {versions}", details)


def _get_driver(subject: Subject) -> str:
    """Return the command that makes NVIDIA's driver usable; empty if there is none."""
    if subject.container:
        option = "--runtime nvidia" if subject.jetson else "--gpus all"
        return f"start the container with: docker run {option}"
    if subject.jetson:
        return ""
    if subject.system.get("ID") == "ubuntu":
        return subject.on_host("ubuntu-drivers install")
    return subject.packages("nvidia-driver")


def onnxruntime(subject: Subject) -> Finding:
    """Examine ONNX Runtime: version, execution providers, and the devices that `run` uses."""
    # The wheels with CUDA.
    cuda = subject.nvidia and not subject.jetson and (_X86 or sys.version_info >= (3, 11))
    try:
        module = import_onnxruntime()
    except MissingDependencyError:
        fix = install_extra("gpu" if cuda else "cpu")
        return Finding("missing", "onnxruntime is not installed", {}, fix)
    providers = [name.removesuffix("ExecutionProvider") for name in module.get_available_providers()]
    available = OnnxRuntimeBackend.available_devices()
    devices = [device for device in available if device == "cpu" or subject.nvidia]
    details = {"version": module.__version__, "providers": providers, "devices": devices}
    fix = f"pip uninstall -y onnxruntime && {install_extra('gpu')}" if cuda and "cuda" not in devices else ""
    return Finding("present", f"{module.__version__}, providers {', '.join(providers)}", details, fix)


def openvino(_: Subject) -> Finding:
    """Examine OpenVINO: release and devices."""
    if not _X86 and importlib.util.find_spec("openvino") is None:
        return Finding("missing", "not installed")
    devices = list(OpenVinoBackend.available_devices())
    version = importlib.metadata.version("openvino")
    core = import_openvino().Core()
    names = {name: str(core.get_property(name, "FULL_DEVICE_NAME")) for name in core.available_devices}
    text = ", ".join(f"{device} ({name})" for device, name in names.items())
    details = {"version": version, "openvino_devices": names, "devices": devices}
    return Finding("present", f"{version}, {text}", details)


def tensorrt(subject: Subject) -> Finding:
    """Examine TensorRT's Python package, and whether it has a GPU."""
    try:
        version = import_tensorrt().__version__
        devices = list(TensorRTBackend.available_devices())
    except MissingDependencyError:
        return Finding("missing", "not installed", {}, _get_tensorrt(subject) if subject.nvidia else "")
    except IdolError as error:
        if _NVDLA not in str(error):
            raise
        return Finding("faulty", str(error), {}, _get_nvdla(subject))
    return Finding("present", version, {"version": version, "devices": devices})


def _get_tensorrt(subject: Subject) -> str:
    """Return the command that gets TensorRT."""
    if subject.jetson:
        return subject.from_jetpack("tensorrt")
    if int(subject.driver.partition(".")[0] or _CUDA_13_DRIVER) >= _CUDA_13_DRIVER:
        return install_extra("tensorrt")
    if _X86:
        return "pip install tensorrt-cu12 'cuda-python<13'"
    return "install a driver for CUDA 13: TensorRT's packages for Arm need it"


def _get_nvdla(subject: Subject) -> str:
    """Return the fix for a TensorRT that needs a library of JetPack 6, which JetPack 7 does not have."""
    if not subject.jetson.get("JetPack", "").startswith("7"):
        return subject.on_host("apt install nvidia-l4t-dla-compiler")
    if subject.container:
        return (
            "start from an image for Arm servers (SBSA) with JetPack 7's TensorRT 10.16, not from an -igpu or l4t "
            "image: their TensorRT is made for JetPack 6, and JetPack 7 has no such file"
        )
    return subject.on_host("apt install --reinstall nvidia-jetpack")


def _library(target: Target, subject: Subject) -> Finding:
    """Examine a compiled library, which is loaded."""
    status = target.status()
    details = {"file": str(status.file or "")}
    if status.ready:
        return Finding("present", ", ".join(filter(None, (str(status.file), status.detail))), details)
    fix = status.fix
    if target is not IMAGE and importlib.util.find_spec(target.name) is None:
        fix = ""  # its engine is not installed
    elif BUILD in fix:
        tools = [package for package, command in _BUILD_TOOLS.items() if shutil.which(command) is None]
        fix = f"{subject.packages(*tools)} && " * bool(tools) + BUILD + fix.partition(BUILD)[2]
    return Finding("missing" if status.file is None else "faulty", status.why, details, fix)


library_image = partial(_library, IMAGE)
library_onnxruntime = partial(_library, _TARGETS["onnxruntime"])
library_openvino = partial(_library, _TARGETS["openvino"])
library_tensorrt = partial(_library, _TARGETS["tensorrt"])


def bundle(subject: Subject) -> Finding:
    """Find a graph of the bundle that passes the golden check here, without timing: the remembered choice first."""
    options = OpenOptions()
    with Bundle.open(subject.bundle) as opened:
        choice = load_choice(opened, options)
        candidates = list_candidates(opened, options)
    remembered = choice and (choice.backend, choice.device, choice.graph)
    candidates.sort(key=lambda c: (c.backend, c.device, c.graph) != remembered)
    best = next((c for c in candidates if not c.why_not and _runs(c, subject.bundle)), None)
    refused = [f"{c} ({c.device}): {c.why_not}" for c in candidates if c.why_not]
    details: dict[str, Any] = {"choice": [], "refused": refused}
    if choice and best and (best.backend, best.device, best.graph) == remembered:
        details["choice"] = choice.lines
    commands = re.findall(r"idol-deploy (?:certify|export|build) .*\w", "\n".join(refused))
    useful = [command for command in commands if subject.nvidia or " build " not in command]
    fix = " && ".join(dict.fromkeys(useful))
    if best is None:
        last = next((c.why_not for c in reversed(candidates) if c.error is not None), "")
        return Finding("faulty", f"no graph runs here: {last}", details, fix)
    return Finding("present", f"{best} ({best.device}) passes the golden check", details, fix)


def _runs(candidate: Candidate, path: str) -> bool:
    """Load a candidate and check its outputs; write the error into it."""
    assert candidate.graph is not None
    options = OpenOptions(candidate.backend, candidate.device, graph=candidate.graph)
    try:
        open_network(path, options).close()
    except IdolError as error:
        candidate.refuse(error)
    return not candidate.why_not
