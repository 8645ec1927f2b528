"""Probes of decoders, encoders, GStreamer, cameras, and the packages that send results elsewhere."""

import importlib.metadata
import os
import re
import shutil
from pathlib import Path
from typing import Any

from idol_runtime.doctor.machine import tool_output
from idol_runtime.doctor.probe import Finding
from idol_runtime.doctor.subject import Subject, install_extra
from idol_runtime.errors import MissingDependencyError, OutputError
from idol_runtime.optional import load_av, load_cv2
from idol_runtime.sinks.video import find_encoder

__all__ = ["cameras", "gstreamer", "mqtt", "opencv", "pyav", "serve"]

# Decoders by codec. FFmpeg's own decoder of AV1 works in hardware only.
_DECODERS = {"h264": "h264", "hevc": "hevc", "av1": "libdav1d", "vp9": "vp9", "mjpeg": "mjpeg"}
# Elements of the pipelines of docs/streams.md, with their packages.
_ELEMENTS = {
    **dict.fromkeys(("decodebin", "videoconvert"), "gstreamer1.0-plugins-base"),
    **dict.fromkeys(("v4l2src", "matroskamux", "rtspsrc"), "gstreamer1.0-plugins-good"),
}
_JETSON_ELEMENTS = dict.fromkeys(("nvarguscamerasrc", "nvvidconv", "nvv4l2decoder"), "nvidia-l4t-gstreamer")


def pyav(_: Subject) -> Finding:
    """Examine PyAV: FFmpeg's version, decoders, and the encoders that `--save` uses."""
    av = load_av("reading and writing video")
    decoders = {codec: name for codec, name in _DECODERS.items() if name in av.codecs_available}
    encoders = {suffix: _encoder(av, suffix) for suffix in (".mp4", ".avi")}
    decoding = ", ".join(codec if codec in decoders else f"no {codec}" for codec in _DECODERS)
    saving = ", ".join(f"{name or 'no encoder'} ({suffix})" for suffix, name in encoders.items())
    ffmpeg = str(getattr(av, "ffmpeg_version_info", "?"))
    text = f"{av.__version__} with FFmpeg {ffmpeg}, decodes {decoding}, --save uses {saving}"
    details = {"version": av.__version__, "ffmpeg": ffmpeg, "decoders": decoders, "encoders": encoders}
    return Finding("present", text, details)


def _encoder(av: Any, suffix: str) -> str:
    """Return the name of the encoder for a video file; empty without one."""
    try:
        return find_encoder(av, Path(f"video{suffix}"))[0]
    except OutputError:
        return ""


def opencv(subject: Subject) -> Finding:
    """Examine OpenCV, which draws and reads cameras."""
    try:
        version = load_cv2("drawing, and reading cameras").__version__
    except MissingDependencyError:
        if not subject.jetson:
            raise
        return Finding("missing", "JetPack's OpenCV is not installed", {}, subject.from_jetpack("cv2"))
    return Finding("present", version, {"version": version})


def gstreamer(subject: Subject) -> Finding:
    """Examine GStreamer's command and its elements."""
    if shutil.which("gst-launch-1.0") is None:
        fix = subject.packages("gstreamer1.0-tools", "gstreamer1.0-plugins-good")
        return Finding("missing", "gst-launch-1.0 is not installed", {}, fix)
    version = tool_output("gst-launch-1.0", "--version").split("version ")[-1].split()[0]
    names = set(re.findall(r"^\S+:\s+([\w-]+):", tool_output("gst-inspect-1.0"), re.MULTILINE))
    packages = _ELEMENTS | (_JETSON_ELEMENTS if subject.jetson else {})
    absent = [name for name in packages if name not in names]
    fix = subject.packages(*dict.fromkeys(packages[name] for name in absent)) if absent else ""
    details = {"version": version, "elements": {name: name in names for name in packages}}
    return Finding("present", ", no ".join((version, *absent)), details, fix)


def cameras(subject: Subject) -> Finding:
    """List the V4L2 devices by the names that their drivers state; opens none."""
    details: dict[str, Any] = {}
    texts, fix = [], ""
    folders = subject.root.glob("sys/class/video4linux/video*")
    for folder in sorted(folders, key=lambda path: int(re.sub(r"\D", "", path.name) or 0)):
        if subject.read(folder / "index") not in ("", "0"):
            continue  # a further node of a device, for metadata
        name = "".join(filter(str.isprintable, subject.read(folder / "name")))
        device = subject.root / "dev" / folder.name
        exists, allowed = device.exists(), os.access(device, os.R_OK | os.W_OK)
        # Sensors of a Jetson's CSI ports; `run --source csi:0` reads them.
        kind = "csi" if name.startswith("vi-output") else "v4l2"
        details[folder.name] = {"name": name, "kind": kind, "exists": exists, "allowed": allowed}
        if not exists:
            fix = fix or f"start the container with: docker run --device /dev/{folder.name}"
        elif not allowed:
            fix = fix or "sudo usermod -aG video $USER, then log in again"
        problem = "" if allowed else " (not readable)" if exists else " (no device file)"
        texts.append(f"{folder.name} {name}{problem}")
    return Finding("present" if texts else "missing", ", ".join(texts) or "no video device", details, fix)


def serve(_: Subject) -> Finding:
    """Look up the packages of the server."""
    return _packages("serve", "starlette", "uvicorn", "prometheus-client")


def mqtt(_: Subject) -> Finding:
    """Look up the MQTT client."""
    return _packages("mqtt", "paho-mqtt")


def _packages(extra: str, *names: str) -> Finding:
    """Look up the versions of the packages of an extra."""
    try:
        versions = {name: importlib.metadata.version(name) for name in names}
    except importlib.metadata.PackageNotFoundError as error:
        return Finding("missing", f"{error.name} is not installed", {}, install_extra(extra))
    return Finding("present", ", ".join(map(" ".join, versions.items())), versions)
