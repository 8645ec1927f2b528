"""Decoders against the pictures that they decode, a stand-in for GStreamer, and cameras of a Jetson."""

from __future__ import annotations

import os
import sys
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from idol_runtime.doctor import media
from idol_runtime.doctor.subject import Subject
from idol_runtime.errors import IdolError, MissingDependencyError
from tests.runtime.doctor.conftest import ORIN

if TYPE_CHECKING:
    from tests.runtime.doctor.conftest import MakeRoot, Script

SUBJECT = Subject(Path("/"))
LISTING = (
    "coreelements:  fdsink: Filedescriptor Sink\nnvarguscamerasrc:  nvarguscamerasrc: NvArgusCameraSrc\n\n"
)


ENCODERS = {"h264": "libx264", "hevc": "libx265", "av1": "libsvtav1", "vp9": "libvpx-vp9", "mjpeg": "mjpeg"}


@pytest.mark.parametrize("codec", ENCODERS)
def test_the_decoder_of_a_codec(codec: str) -> None:
    av = pytest.importorskip("av")
    if ENCODERS[codec] not in av.codecs_available:
        pytest.skip(f"PyAV has no {ENCODERS[codec]}")
    encoder = av.CodecContext.create(ENCODERS[codec], "w")
    encoder.width = encoder.height = 64
    encoder.time_base, encoder.options = (
        Fraction(1, 25),
        {"cpu-used": "8"} if "lib" in ENCODERS[codec][:3] else {},
    )
    encoder.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
    picture = av.VideoFrame.from_ndarray(np.full((64, 64, 3), 99, np.uint8), "rgb24")
    packets = [*encoder.encode(picture), *encoder.encode(None)]
    decoder = av.CodecContext.create(media.pyav(SUBJECT).details["decoders"][codec], "r")
    pictures = [image for packet in (*packets, None) for image in decoder.decode(packet)]
    assert abs(pictures[0].to_ndarray(format="rgb24").mean() - 99) < 3


def test_codecs_that_the_build_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    av = pytest.importorskip("av")
    # FFmpeg's own decoder of AV1 cannot decode without a GPU.
    monkeypatch.setattr(av, "codecs_available", {"h264", "hevc", "av1", "vp9", "mjpeg"})
    finding = media.pyav(SUBJECT)
    assert ", no av1" in finding.summary
    for encoder in finding.details["encoders"].values():
        assert av.CodecContext.create(encoder, "w").is_encoder


def test_gstreamer(
    script: Script, make_root: MakeRoot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    script("gst-launch-1.0", "echo gst-launch-1.0 version 1.24.2; echo GStreamer 1.24.2")
    script("gst-inspect-1.0", f"cat <<END\n{LISTING}END\n")
    finding = media.gstreamer(Subject(make_root(ORIN)))
    assert finding.details["version"] == "1.24.2"
    assert [name for name, there in finding.details["elements"].items() if there] == ["nvarguscamerasrc"]
    assert "no v4l2src" in finding.summary
    packages = "gstreamer1.0-plugins-base gstreamer1.0-plugins-good nvidia-l4t-gstreamer"
    assert finding.fix == f"sudo apt install {packages}"
    assert "nvvidconv" not in media.gstreamer(SUBJECT).details["elements"]
    script("gst-inspect-1.0", "exit 4")
    with pytest.raises(IdolError, match=r"gst-inspect-1\.0 fails with exit status 4"):
        media.gstreamer(SUBJECT)
    monkeypatch.setenv("PATH", "")
    finding = media.gstreamer(Subject(make_root(ORIN)))
    assert finding.state == "missing"
    assert finding.fix == "sudo apt install gstreamer1.0-tools gstreamer1.0-plugins-good"


def test_cameras(make_root: MakeRoot, monkeypatch: pytest.MonkeyPatch) -> None:
    root = make_root(ORIN)
    finding = media.cameras(Subject(root))
    # Without control characters, and without the node of metadata.
    assert finding.summary == "video0 vi-output, imx219 9-0010, video1 HD Pro[2J Webcam C920"
    assert [camera["kind"] for camera in finding.details.values()] == ["csi", "v4l2"]
    assert finding.fix == ""
    (root / "dev/video1").unlink()
    finding = media.cameras(Subject(root))
    assert finding.fix == "start the container with: docker run --device /dev/video1"
    assert finding.summary.endswith("C920 (no device file)")
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert media.cameras(Subject(root)).fix.startswith("sudo usermod -aG video $USER")
    assert media.cameras(Subject(root / "dev")).state == "missing"


def test_opencv_of_jetpack(make_root: MakeRoot, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)
    assert media.opencv(Subject(make_root(ORIN))).fix.endswith("apt install nvidia-jetpack")
    with pytest.raises(MissingDependencyError):
        media.opencv(SUBJECT)
