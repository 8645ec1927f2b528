"""The things that a machine lacks, and the one command for each that gets it there."""

import re
import shlex
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from idol_runtime.backends.opening import BACKENDS
from idol_runtime.doctor.probe import Finding

__all__ = ["Advice", "advise", "engines", "quoted"]

_NVDLA = "libnvdla_compiler.so"
_COMMAND = re.compile(r"idol-deploy (build|certify|export) .*")


class Advice(msgspec.Struct, frozen=True):
    """One thing that is missing.

    Attributes:
        name: name of the thing.
        why: what it is for, or the fault.
        fix: command that gets it; an instruction where no command does.
        needed: True if nothing runs without it.
    """

    name: str
    why: str
    fix: str
    needed: bool = False


def engines(findings: Mapping[str, Finding]) -> dict[str, list[str]]:
    """Return the devices of each usable engine, in the order in which `run` tries them."""
    has_gpu = findings["gpu"].state == "present"
    devices = {
        name: [d for d in findings[name].details["devices"] if has_gpu or not d.startswith("cuda")]
        for name in list(BACKENDS)[::-1]
        if findings[name].state == "present"
    }
    return {name: found for name, found in devices.items() if found}


def quoted(path: str) -> str:
    """Quote a path for a shell, but not the `~` of the home folder."""
    home, rest = ("~/", path[2:]) if path.startswith("~/") else ("", path)
    return home + shlex.quote(rest)


def advise(findings: Mapping[str, Finding]) -> list[Advice]:
    """Return what is missing, the needed things first, with at most one entry for each command."""
    machine = _Machine(findings)
    rules = (machine.engines, machine.gpus, machine.tensorrt, machine.libraries, machine.media, machine.rest)
    entries = [entry for rule in rules for entry in rule()]
    unique = {entry.fix: entry for entry in reversed(entries)}
    return sorted((e for e in entries if unique[e.fix] is e), key=lambda entry: not entry.needed)


class _Machine:
    """The rules, for the findings of one machine."""

    def __init__(self, findings: Mapping[str, Finding]) -> None:
        self.findings = findings
        system = findings["system"].details
        self.x86 = system.get("machine") in ("x86_64", "AMD64")
        self.jetson: Mapping[str, str] = system.get("jetson", {})
        self.jetpack = self.jetson.get("JetPack", "").partition(".")[0]
        self.container = bool(system.get("container"))
        self.apt = bool({"debian", "ubuntu"} & set(system.get("os_ids", ())))
        self.ubuntu = system.get("os_ids", [""])[0] == "ubuntu"
        self.python = tuple(map(int, system.get("python", "0.0").split(".")[:2]))
        self.prefix = system.get("prefix", ".venv")
        self.sudo = "" if system.get("root") else "sudo "

    def has(self, name: str) -> bool:
        return self.findings[name].state == "present"

    def lacks(self, name: str) -> bool:
        return self.findings[name].state == "missing"

    def faults(self, *names: str) -> Iterator[Advice]:
        """Yield the faults, whose messages name their fixes."""
        for name in names:
            if self.findings[name].state == "faulty":
                why, _, fix = self.findings[name].summary.partition("; ")
                yield Advice(name, why, fix or "see docs/install.md")

    def install(self, name: str) -> str:
        return f"pip install 'idol-deploy[{name}]'"

    def packages(self, *names: str) -> str:
        return f"{self.sudo}apt install {' '.join(names)}" if self.apt else f"install {' and '.join(names)}"

    def engines(self) -> Iterator[Advice]:
        """Yield OpenVINO and ONNX Runtime; one of them is needed where no engine can be used."""
        none = not engines(self.findings)
        if self.x86 and self.lacks("openvino"):
            yield Advice("OpenVINO", "runs the network on x86-64 CPUs", self.install("openvino"), none)
            none = False
        wheels = not self.jetson and (self.x86 or self.python >= (3, 11))  # with CUDA
        cuda = self.has("gpu") and wheels
        if self.lacks("onnxruntime"):
            where = "CPUs and CUDA" if cuda else "CPUs"
            yield Advice(
                "ONNX Runtime", f"runs the network on {where}", self.install("gpu" if cuda else "cpu"), none
            )
        elif (
            cuda and self.has("onnxruntime") and "cuda" not in self.findings["onnxruntime"].details["devices"]
        ):
            fix = f"pip uninstall -y onnxruntime && {self.install('gpu')}"
            yield Advice("ONNX Runtime for CUDA", "runs the network on the GPU", fix)
        yield from self.faults("openvino", "onnxruntime")

    def gpus(self) -> Iterator[Advice]:
        """Yield the drivers of GPUs."""
        for fault in self.faults("gpu"):
            fix = fault.fix
            if self.container:
                option = "--runtime nvidia" if self.jetson else "--gpus all"
                fix = f"start the container with: docker run {option}"
            elif self.apt and not self.jetson:
                fix = f"{self.sudo}ubuntu-drivers install" if self.ubuntu else self.packages("nvidia-driver")
            yield Advice("NVIDIA's driver", fault.why, fix)
        intel = self.findings["gpu"].details.get("intel")
        if intel and self.has("openvino"):
            names = self.findings["openvino"].details["openvino_devices"]
            if not any(name.startswith("GPU") for name in names):
                fix = self.packages("intel-opencl-icd")
                yield Advice("Intel's GPU driver", "OpenVINO does not find the Intel GPU (--device gpu)", fix)

    def tensorrt(self) -> Iterator[Advice]:
        """Yield TensorRT where there is a GPU for it."""
        finding = self.findings["tensorrt"]
        if _NVDLA in finding.summary and finding.state == "faulty":
            yield Advice(_NVDLA, finding.summary, self.nvdla())
        elif finding.state == "faulty":
            yield from self.faults("tensorrt")
        elif self.lacks("tensorrt") and (self.has("gpu") or self.jetson):
            yield Advice("TensorRT", "runs the network on the GPU, usually the fastest", self.get_tensorrt())

    def nvdla(self) -> str:
        """Return the fix of TensorRT's library of JetPack 6, which JetPack 7 does not have."""
        if self.jetpack != "7":
            command = "apt install nvidia-l4t-dla-compiler"
            return f"on the host: sudo {command}" if self.container else self.sudo + command
        if self.container:
            return (
                "start from an image for Arm servers (SBSA) with JetPack 7's TensorRT 10.16, not from an -igpu or l4t "
                "image: their TensorRT is made for JetPack 6, and JetPack 7 has no such file"
            )
        return f"{self.sudo}apt install --reinstall nvidia-jetpack"

    def get_tensorrt(self) -> str:
        if self.jetpack == "5":
            return "install JetPack 6.1 or newer: JetPack 5 has TensorRT 8.5, which is not supported"
        if self.jetson:
            return self.from_jetpack()
        if self.findings["gpu"].details.get("cuda", "").startswith("12."):
            if self.x86:
                return "pip install tensorrt-cu12 'cuda-python<13'"
            return "install a driver for CUDA 13: TensorRT's packages for Arm need it"
        return self.install("tensorrt")

    def from_jetpack(self) -> str:
        """Return the command that makes JetPack's Python packages visible, or installs them."""
        if self.findings["tensorrt"].details.get("in_system"):
            return f"python3 -m venv --system-site-packages {quoted(self.prefix)}"
        return self.packages("nvidia-jetpack")

    def libraries(self) -> Iterator[Advice]:
        """Yield the compiled libraries of the engines that are there, with the one command that builds all."""
        wanted = ["library_image"]
        wanted += [f"library_{name}" for name in ("onnxruntime", "openvino", "tensorrt") if self.has(name)]
        broken = [self.findings[n] for n in wanted if self.findings[n].state in ("missing", "faulty")]
        if not broken:
            return
        fixes = " ".join(finding.details.get("fix", finding.summary) for finding in broken)
        options = [o for o in ("--cuda", "--fetch-headers", "--tensorrt-include FOLDER") if o in fixes]
        tools = {"C++ compiler": "g++", "CMake": "cmake"}
        if "--cuda" in options:
            tools["nvcc"] = "nvidia-jetpack" if self.jetson else "nvidia-cuda-toolkit"
        present = self.findings["build_tools"].details
        absent = [package for tool, package in tools.items() if not present.get(tool)]
        install = f"{self.packages(*absent)} && " if absent else ""
        titles = ", ".join(str(finding.details.get("title", finding.summary)) for finding in broken)
        fix = " ".join([f"{install}idol-deploy plugins build", *options])
        yield Advice("compiled libraries", f"faster: {titles}", fix)

    def media(self) -> Iterator[Advice]:
        """Yield the packages for videos and cameras."""
        absent = [title for title, name in (("PyAV", "pyav"), ("OpenCV", "opencv")) if self.lacks(name)]
        extra = "jetson" if self.jetson and "PyAV" in absent else "video"
        if absent == ["OpenCV"] and self.jetson:
            yield Advice("OpenCV", "draws and reads cameras", self.from_jetpack())
        elif absent:
            yield Advice(
                " and ".join(absent), "video files, streams, cameras and drawing", self.install(extra)
            )
        yield from self.faults("pyav", "opencv", "gstreamer")
        tools = self.packages("gstreamer1.0-tools", "gstreamer1.0-plugins-good")
        if self.lacks("gstreamer"):
            yield Advice("GStreamer", "pipelines, CSI cameras and v4l2: devices", tools)
        elif self.jetson and self.has("gstreamer"):
            elements: dict[str, bool] = self.findings["gstreamer"].details["elements"]
            if lacking := [name for name, there in elements.items() if name.startswith("nv") and not there]:
                fix = self.packages("nvidia-l4t-gstreamer")
                yield Advice("GStreamer's Jetson elements", f"no {', '.join(lacking)}", fix)
        cameras: dict[str, Any] = self.findings["cameras"].details
        for device, camera in cameras.items():
            if camera["exists"] and not camera["allowed"]:
                fix = "sudo usermod -aG video $USER, then log in again"
                yield Advice("access to cameras", f"/dev/{device} may not be read by this user", fix)
            elif not camera["exists"] and not camera["index"]:
                fix = f"start the container with: docker run --device /dev/{device}"
                yield Advice(f"/dev/{device}", "the kernel has this camera, but no device file exists", fix)

    def rest(self) -> Iterator[Advice]:
        """Yield the extras, the clock, the disk, the power mode, and graphs of the bundle that do not run yet."""
        purposes = {
            "serve": "idol-deploy serve and run --metrics",
            "mqtt": "events to an MQTT broker (--mqtt)",
        }
        for name, purpose in purposes.items():
            if self.lacks(name):
                yield Advice(name, purpose, self.install(name))
        yield from self.faults(*purposes)
        for fault in self.faults("clock"):
            yield Advice("clock", fault.why, f"{'on the host: ' * self.container}{fault.fix}")
        yield from self.faults("disk")
        details = self.findings["power"].details
        best = next(
            (n for name, n in details.get("power_modes", {}).items() if name.startswith("MAXN")), None
        )
        if best is not None and details.get("power_mode", "").partition(" ")[0] not in ("", str(best)):
            why = f"power mode {details['power_mode']} is slower than MAXN, which needs more power"
            yield Advice("full clocks", why, f"sudo nvpmodel -m {best}")
        bundle = self.findings.get("bundle", Finding("missing", ""))
        for row in bundle.details.get("candidates", ()):
            command = _COMMAND.search(row["why_not"])
            if command and (command[1] != "build" or self.has("gpu")):
                name = f"{row['graph'] or 'engine'} in {row['backend']}"
                yield Advice(name, row["why_not"].partition("; ")[0], command[0].rstrip(". "))
