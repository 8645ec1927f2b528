"""Probes of the GPU, the inference engines, the compiled libraries, and a bundle on this machine."""

import contextlib
import importlib.metadata
import importlib.util
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from idol_plugins.build import compiler, cuda_compiler
from idol_plugins.cuda_driver import open_driver
from idol_plugins.errors import PluginError
from idol_plugins.openvino import import_openvino
from idol_plugins.selftest import IMAGE, TARGETS
from idol_runtime.backends.base import OpenOptions
from idol_runtime.backends.onnxruntime import OnnxRuntimeBackend, import_onnxruntime
from idol_runtime.backends.opening import Candidate, list_candidates
from idol_runtime.backends.openvino import OpenVinoBackend
from idol_runtime.backends.remembered import load_choice
from idol_runtime.backends.tensorrt_api import import_tensorrt
from idol_runtime.bundle.bundle import Bundle
from idol_runtime.doctor.machine import read
from idol_runtime.doctor.probe import Finding, Subject
from idol_runtime.errors import IdolError, MissingDependencyError
from idol_runtime.pipeline import check_golden_frame

__all__ = [
    "build_tools",
    "bundle",
    "gpu",
    "library_cuda",
    "library_image",
    "library_onnxruntime",
    "library_openvino",
    "library_tensorrt",
    "onnxruntime",
    "openvino",
    "pytorch",
    "tensorrt",
]

_NVIDIA, _INTEL = "0x10de", "0x8086"
_CAPABILITY = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, _MINOR


def gpu(subject: Subject) -> Finding:
    """Examine the GPUs on the PCI bus, NVIDIA's driver with its devices, and the CUDA toolkit."""
    vendors = {
        read(device / "vendor")
        for device in subject.root.glob("sys/bus/pci/devices/*")
        if read(device / "class").startswith("0x03")  # display controllers
    }
    nvidia = _NVIDIA in vendors or "Jetson" in read(subject.root / "proc/device-tree/model")
    version = re.search(r"Module\s.*?\s(\d+\.[\d.]+)", read(subject.root / "proc/driver/nvidia/version"))
    toolkit = _toolkit(subject.root)
    details: dict[str, Any] = {
        "nvidia": nvidia,
        "intel": _INTEL in vendors,
        "driver": version[1] if version else "",
        "toolkit": toolkit,
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
        if nvidia or details["driver"]:
            return Finding("faulty", f"NVIDIA GPU, but {error}", details)
        return Finding("missing", f"no NVIDIA GPU{', an Intel GPU' * details['intel']}", details)
    names = ", ".join(f"{gpu['name']} (compute capability {gpu['capability']})" for gpu in details["devices"])
    version_text = " ".join(filter(None, ("driver", details["driver"], "for CUDA", details["cuda"])))
    text = f"{names or 'no device'}, {version_text}, {f'toolkit {toolkit}' if toolkit else 'no toolkit'}"
    return Finding("present" if names else "missing", text, details)


def _toolkit(root: Path) -> str:
    """Return the version of the CUDA toolkit in its usual folder; `?` if it states none."""
    text = read(root / "usr/local/cuda/version.json")
    if version := re.search(r'"cuda"\s*:\s*{[^}]*"version"\s*:\s*"([\d.]+)"', text):
        return version[1]
    return "?" if (root / "usr/local/cuda/bin/nvcc").exists() else ""


def onnxruntime(_: Subject) -> Finding:
    """Examine ONNX Runtime: version, execution providers, and the devices that `run` uses."""
    module = import_onnxruntime()
    providers = [name.removesuffix("ExecutionProvider") for name in module.get_available_providers()]
    devices = list(OnnxRuntimeBackend.available_devices())
    text = f"{module.__version__}, providers {', '.join(providers)}"
    return Finding(
        "present", text, {"version": module.__version__, "providers": providers, "devices": devices}
    )


def openvino(_: Subject) -> Finding:
    """Examine OpenVINO: release and devices."""
    devices = list(OpenVinoBackend.available_devices())
    version = importlib.metadata.version("openvino")
    core = import_openvino().Core()
    names = {name: str(core.get_property(name, "FULL_DEVICE_NAME")) for name in core.available_devices}
    text = ", ".join(f"{device} ({name})" for device, name in names.items())
    details = {"version": version, "openvino_devices": names, "devices": devices}
    return Finding("present", f"{version}, {text}", details)


def tensorrt(subject: Subject) -> Finding:
    """Examine TensorRT's Python package."""
    try:
        module = import_tensorrt()
    except MissingDependencyError:
        system = any(subject.root.glob("usr/lib/python3*/dist-packages/tensorrt"))
        return Finding("missing", "not installed", {"in_system": system})
    return Finding("present", module.__version__, {"version": module.__version__, "devices": ["cuda"]})


def pytorch(_: Subject) -> Finding:
    """Look up PyTorch's version, without importing it."""
    try:
        version = importlib.metadata.version("torch")
        return Finding("present", f"{version} (not used by `run`)", {"version": version})
    except importlib.metadata.PackageNotFoundError:
        return Finding(
            "missing", "not installed; only training, export and evaluation of checkpoints need it"
        )


def build_tools(_: Subject) -> Finding:
    """Look up the tools that compile the libraries."""
    details: dict[str, str | None] = {"CMake": shutil.which("cmake")}
    for name, find in (("C++ compiler", compiler), ("nvcc", cuda_compiler)):
        with contextlib.suppress(PluginError):
            details[name] = find()
    text = ", ".join(
        name if details.get(name) else f"no {name}" for name in ("C++ compiler", "CMake", "nvcc")
    )
    complete = details["CMake"] and details.get("C++ compiler")
    return Finding("present" if complete else "missing", text, details)


def _library(name: str) -> Callable[[Subject], Finding]:
    """Return the probe of a compiled library, which loads it."""
    (target,) = (target for target in (*TARGETS, IMAGE) if target.name == name)

    def probe(_: Subject) -> Finding:
        status = target.status()
        details = {"title": target.title, "file": str(status.file or ""), "fix": status.fix}
        if status.ready:
            return Finding("present", ", ".join(filter(None, (str(status.file), status.detail))), details)
        if status.file is None:
            return Finding("missing", status.why, details)
        return Finding("faulty", f"{status.why}; {status.fix}", details)

    return probe


library_cuda = _library("cuda")
library_image = _library("image")
library_onnxruntime = _library("onnxruntime")
library_openvino = _library("openvino")
library_tensorrt = _library("tensorrt")


def bundle(subject: Subject) -> Finding:
    """Find a graph of the bundle that passes the golden check here, without timing: the remembered choice first."""
    options = OpenOptions()
    with Bundle.open(subject.bundle) as opened:
        choice = load_choice(opened, options)
        remembered = choice and (choice.backend, choice.device, choice.graph)
        candidates = list_candidates(opened, options)
        candidates.sort(key=lambda c: _place(c) != remembered)
        best = next((c for c in candidates if not c.why_not and _passes(c, opened, options)), None)
    rows = []
    for candidate in candidates:
        state = "passed" if candidate is best else "refused" if candidate.why_not else "not tried"
        place = zip(("backend", "device", "graph"), _place(candidate), strict=True)
        rows.append({**dict(place), "state": state, "why_not": candidate.why_not})
    details: dict[str, Any] = {"path": subject.bundle, "choice": [], "candidates": rows}
    if best is None:
        last = next((c.why_not for c in reversed(candidates) if c.error is not None), "")
        return Finding("faulty", f"no graph runs here: {last}", details)
    if choice is not None and _place(best) == remembered:
        details["choice"] = choice.lines
    return Finding("present", f"{best} ({best.device}) passes the golden check", details)


def _place(candidate: Candidate) -> tuple[str, str, str | None]:
    return candidate.backend, candidate.device, candidate.graph


def _passes(candidate: Candidate, opened: Bundle, options: OpenOptions) -> bool:
    """Load a candidate and check its outputs; write the error into it."""
    try:
        with contextlib.closing(candidate.open(opened, options)) as backend:
            tolerances = opened.tolerances(backend.graph, backend.engine)
            check_golden_frame(backend, opened.golden_frame(), tolerances)
    except IdolError as error:
        candidate.refuse(error)
        return False
    return True
