"""Probes of decoders, encoders, GStreamer, cameras, and the packages that send results elsewhere."""

import importlib.metadata
import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from idol_plugins.errors import PluginError
from idol_runtime.doctor.machine import read
from idol_runtime.doctor.probe import Finding, Subject
from idol_runtime.errors import OutputError
from idol_runtime.optional import import_optional, load_av, load_cv2
from idol_runtime.sinks.video import find_encoder

__all__ = ["cameras", "gstreamer", "mqtt", "opencv", "pyav", "serve"]

# Decoders by codec, as FFmpeg orders them. Its own decoder of AV1 works in hardware only.
_CODECS = {
    "h264": ("h264",),
    "hevc": ("hevc",),
    "av1": ("libdav1d", "libaom-av1"),
    "vp9": ("vp9", "libvpx-vp9"),
    "mjpeg": ("mjpeg",),
}
# Elements of the pipelines of docs/streams.md; the last ones are NVIDIA's.
_ELEMENTS = ("v4l2src", "decodebin", "videoconvert", "matroskamux", "rtspsrc")
_JETSON_ELEMENTS = ("nvarguscamerasrc", "nvvidconv", "nvv4l2decoder")
_SECONDS = 15.0


def pyav(_: Subject) -> Finding:
    """Examine PyAV: FFmpeg's version, decoders, and the encoders that `--save` uses."""
    av = load_av("reading and writing video")
    decoders = {
        codec: next((name for name in names if name in av.codecs_available), "")
        for codec, names in _CODECS.items()
    }
    encoders = {suffix: _encoder(av, suffix) for suffix in (".mp4", ".avi")}
    absent = "".join(f", no {name}" for name, decoder in decoders.items() if not decoder)
    decoding = ", ".join(name for name, decoder in decoders.items() if decoder)
    saving = ", ".join(f"{name or 'no encoder'} ({suffix})" for suffix, name in encoders.items())
    ffmpeg = str(getattr(av, "ffmpeg_version_info", "?"))
    text = f"{av.__version__} with FFmpeg {ffmpeg}, decodes {decoding}{absent}, --save uses {saving}"
    details = {"version": av.__version__, "ffmpeg": ffmpeg, "decoders": decoders, "encoders": encoders}
    return Finding("present", text, details)


def _encoder(av: Any, suffix: str) -> str:
    """Return the name of the encoder for a video file; empty without one."""
    try:
        return find_encoder(av, Path(f"video{suffix}"))[0]
    except OutputError:
        return ""


def opencv(_: Subject) -> Finding:
    """Examine OpenCV, which draws and reads cameras."""
    version = load_cv2("drawing, and reading cameras").__version__
    return Finding("present", version, {"version": version})


def gstreamer(_: Subject) -> Finding:
    """Examine GStreamer's command and its elements."""
    if shutil.which("gst-launch-1.0") is None:
        return Finding("missing", "gst-launch-1.0 is not installed")
    version = _output("gst-launch-1.0", "--version").split("version ")[-1].split()[0]
    names = set(re.findall(r"^\S+:\s+([\w-]+):", _output("gst-inspect-1.0"), re.MULTILINE))
    elements = {name: name in names for name in (*_ELEMENTS, *_JETSON_ELEMENTS)}
    absent = "".join(f", no {name}" for name in _ELEMENTS if not elements[name])
    of_jetson = ", ".join(name for name in _JETSON_ELEMENTS if elements[name]) or "no elements of a Jetson"
    return Finding("present", f"{version}, {of_jetson}{absent}", {"version": version, "elements": elements})


def _output(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=False)  # noqa: S603
    if done.returncode:
        raise PluginError(f"{command[0]} fails with exit status {done.returncode}; install GStreamer again")
    return done.stdout


def cameras(subject: Subject) -> Finding:
    """List the V4L2 devices by the names that their drivers state; opens none."""
    details: dict[str, Any] = {}
    folders = subject.root.glob("sys/class/video4linux/video*")
    for folder in sorted(folders, key=lambda path: int(re.sub(r"\D", "", path.name) or 0)):
        name, device = (
            "".join(filter(str.isprintable, read(folder / "name"))),
            subject.root / "dev" / folder.name,
        )
        details[folder.name] = {
            "name": name,
            # Sensors of a Jetson's CSI ports; `run --source csi:0` reads them.
            "kind": "csi" if name.startswith("vi-output") else "v4l2",
            "index": int(read(folder / "index") or 0),
            "exists": device.exists(),
            "allowed": os.access(device, os.R_OK | os.W_OK),
        }
    # Further nodes of a device, such as index 1, have no pictures but metadata.
    first = [f"{device} {camera['name']}" for device, camera in details.items() if not camera["index"]]
    return Finding("present" if first else "missing", ", ".join(first) or "no video device", details)


def serve(_: Subject) -> Finding:
    """Examine the packages of the server."""
    modules = {"starlette": "starlette", "uvicorn": "uvicorn", "prometheus-client": "prometheus_client"}
    return _packages("serve", modules)


def mqtt(_: Subject) -> Finding:
    """Examine the MQTT client."""
    return _packages("mqtt", {"paho-mqtt": "paho.mqtt.client"})


def _packages(extra: str, modules: Mapping[str, str]) -> Finding:
    """Import the packages of an extra, given by distribution, and return their versions."""
    for package, module in modules.items():
        import_optional(module, package, extra, extra)
    versions = {package: importlib.metadata.version(package) for package in modules}
    return Finding("present", ", ".join(map(" ".join, versions.items())), versions)
